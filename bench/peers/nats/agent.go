// The agent of the peers that Go drives: the same loop as bench/peers/python/agent.py.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	warmWord   = 0xA11C0DE5A11C0DE5
	endWord    = 0xE4DC0DE5E4DC0DE5
	splitSize  = 4096
	largePool  = 256
	smallPool  = 16
	firstDelay = 1_000_000
)

// peer is one side of the library under measurement.
type peer interface {
	sendPool(bodies [][]byte) error
	sendOne(body []byte) error
	flush() error
	// receive hands what has come to the sink, and waits for the first.
	receive(into *sink) error
	close()
}

type options map[string]string

func (o options) text(name string) string {
	value, there := o[name]
	if !there {
		check(fmt.Errorf("argument %s= is missing", name))
	}
	return value
}

func (o options) number(name string, otherwise int64) int64 {
	value, there := o[name]
	if !there {
		return otherwise
	}
	number, err := strconv.ParseInt(value, 10, 64)
	check(err)
	return number
}

func (o options) seconds(name string) time.Duration {
	seconds, err := strconv.ParseFloat(o.text(name), 64)
	check(err)
	return time.Duration(seconds * float64(time.Second))
}

func parse(arguments []string) options {
	result := options{}
	for _, argument := range arguments {
		key, value, _ := strings.Cut(argument, "=")
		result[key] = value
	}
	return result
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// monotonic is CLOCK_MONOTONIC, which all processes of the machine share.
func monotonic() int64 {
	var now unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return now.Nano()
}

// control is the harness on standard input and output; its end is ours.
type control struct {
	goOn, exit chan struct{}
}

func newControl() *control {
	c := &control{make(chan struct{}), make(chan struct{})}
	go func() {
		var leaving bool
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			switch lines.Text() {
			case "go":
				close(c.goOn)
			case "exit":
				leaving = true
				close(c.exit)
			}
		}
		if !leaving {
			os.Exit(3)
		}
	}()
	return c
}

func (c *control) say(event, facts string) {
	fmt.Printf("{\"event\": %q%s}\n", event, facts)
}

// sink reads all words of each body, and takes the latency of a paced one.
type sink struct {
	drain     bool
	count     int64
	sum       uint64
	last      uint64
	latencies []int64
	paced     int
}

func (s *sink) body(body []byte) {
	s.last = binary.LittleEndian.Uint64(body)
	if s.latencies != nil {
		if s.paced == len(s.latencies) {
			return // the END marker
		}
		number := binary.LittleEndian.Uint64(body[8:])
		if s.latencies[number] != 0 {
			check(fmt.Errorf("message %d came twice", number))
		}
		s.latencies[number] = max(1, monotonic()-int64(s.last))
		s.paced++
	}
	s.count++
	if !s.drain {
		var sum uint64
		for ; len(body) >= 8; body = body[8:] {
			sum += binary.LittleEndian.Uint64(body)
		}
		s.sum += sum
	}
}

func makePool(size int) [][]byte {
	count := largePool
	if size > splitSize {
		count = smallPool
	}
	pool := make([][]byte, count)
	var number uint64
	for i := range pool {
		pool[i] = make([]byte, size)
		for at := 0; at < size; at += 8 {
			number++
			word := number*0x9E3779B97F4A7C15 + uint64(size)
			word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
			word = (word ^ (word >> 27)) * 0x94D049BB133111EB
			binary.LittleEndian.PutUint64(pool[i][at:], word^(word>>31))
		}
	}
	return pool
}

func marker(word uint64, size int) []byte {
	body := make([]byte, size)
	binary.LittleEndian.PutUint64(body, word)
	return body
}

// pacedBody is a copy of the model whose three first words add up to zero.
func pacedBody(model []byte, intended, number int64) []byte {
	body := append([]byte(nil), model...)
	binary.LittleEndian.PutUint64(body, uint64(intended))
	binary.LittleEndian.PutUint64(body[8:], uint64(number))
	binary.LittleEndian.PutUint64(body[16:], uint64(-(intended + number)))
	return body
}

// waitUntil sleeps in the kernel: the runtime's own timers are coarser.
func waitUntil(moment int64, spin bool) {
	for left := moment - monotonic(); left > 0; left = moment - monotonic() {
		if !spin {
			rest := unix.NsecToTimespec(left)
			_ = unix.Nanosleep(&rest, nil)
		}
	}
}

func flood(p peer, pool [][]byte, lasts time.Duration, bytesMax int64, paced bool) int64 {
	end := monotonic() + lasts.Nanoseconds()
	batchesMax := max(1, bytesMax/int64(len(pool)*len(pool[0])))
	var batches int64
	for ; batches < batchesMax && monotonic() < end; batches++ {
		if !paced {
			check(p.sendPool(pool))
			continue
		}
		for range pool {
			check(p.sendOne(pacedBody(pool[0], monotonic(), 0)))
		}
	}
	return batches * int64(len(pool))
}

func produce(o options, p peer, c *control) {
	size := int(o.number("size", 0))
	pool := makePool(size)
	bytesMax := o.number("bytes_max", 0)
	paced, spin := o.text("mode") == "latency", o.number("spin", 0) == 1
	warm := flood(p, pool, o.seconds("warmup_s"), bytesMax/4, paced)
	check(p.flush())
	check(p.sendOne(marker(warmWord, size)))
	check(p.flush())
	c.say("ready", fmt.Sprintf(", \"count\": %d", warm))
	<-c.goOn
	start := monotonic()
	count := o.number("count", 0)
	if paced {
		rate := o.number("rate", 1)
		for number := int64(0); number < count; number++ {
			intended := start + firstDelay + number*1_000_000_000/rate
			body := pacedBody(pool[0], intended, number)
			waitUntil(intended, spin)
			check(p.sendOne(body))
		}
	} else {
		count = flood(p, pool, o.seconds("seconds"), bytesMax, false)
	}
	check(p.flush())
	end := monotonic()
	check(p.sendOne(marker(endWord, size)))
	check(p.flush())
	c.say("done", fmt.Sprintf(", \"count\": %d, \"start_ns\": %d, \"end_ns\": %d", count, start, end))
	<-c.exit
}

func consume(o options, p peer, c *control) {
	c.say("attached", "")
	into := &sink{drain: o.number("drain", 0) == 1}
	expect, warm := o.number("expect", 0), o.number("warm", 0)
	for (expect > 0 && into.count < warm) || (expect == 0 && into.last != warmWord) {
		check(p.receive(into))
	}
	warmCount := into.count
	c.say("ready", fmt.Sprintf(", \"count\": %d", warmCount))
	<-c.goOn
	start := monotonic()
	if o.text("mode") == "latency" {
		into.count, into.sum = 0, 0
		into.latencies = make([]int64, o.number("count", 0))
		for into.paced < len(into.latencies) {
			check(p.receive(into))
		}
		file, err := os.Create(o.text("out"))
		check(err)
		check(binary.Write(file, binary.LittleEndian, into.latencies))
		check(file.Close())
	} else {
		for (expect > 0 && into.count < expect) || (expect == 0 && into.last != endWord) {
			check(p.receive(into))
		}
	}
	end := monotonic()
	c.say("done", fmt.Sprintf(", \"count\": %d, \"sum\": \"%d\", \"warm\": %d, \"start_ns\": %d, \"end_ns\": %d",
		into.count, into.sum, warmCount, start, end))
	<-c.exit
}
