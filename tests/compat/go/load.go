package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// A body of the load tests is: stream (int32), sequence in this stream and queue (int64), filler.
// The Java driver has the same, number for number.

// sums is count, sum and exclusive-or of one hash a message.
type sums struct {
	count, sum, xor uint64
}

type queueSums map[string]*sums

func (q queueSums) add(queue string, body []byte) {
	x := uint64(crc32.ChecksumIEEE(body))<<32 | binary.BigEndian.Uint64(body[4:12])&0xffffffff
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	of := q[queue]
	if of == nil {
		of = new(sums)
		q[queue] = of
	}
	of.count++
	of.sum += x
	of.xor ^= x
}

func (q queueSums) shown() object {
	result := object{}
	for queue, of := range q {
		result[queue] = fmt.Sprintf("%d %x %x", of.count, of.sum, of.xor)
	}
	return result
}

func loadBody(stream int32, sequence int64, size int) []byte {
	body := make([]byte, size)
	binary.BigEndian.PutUint32(body, uint32(stream))
	binary.BigEndian.PutUint64(body[4:], uint64(sequence))
	x := (uint64(stream)+1)*0x9e3779b97f4a7c15 ^ uint64(sequence)
	for at := 12; at+8 <= size; at += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.BigEndian.PutUint64(body[at:], x)
	}
	return body
}

// loadSend sends numbered messages to every queue of some topics, in several streams of one producer.
func (p *producing) loadSend(cmd *command) (object, error) {
	queues := []*primitive.MessageQueue{}
	for _, topic := range cmd.Topics {
		of, err := p.queues(topic)
		if err != nil {
			return nil, err
		}
		queues = append(queues, of...)
	}
	total := queueSums{}
	var lock sync.Mutex
	failures := make(chan error, cmd.Streams)
	for i := 0; i < cmd.Streams; i++ {
		share := cmd.Count / int64(cmd.Streams)
		if int64(i) < cmd.Count%int64(cmd.Streams) {
			share++
		}
		go func(stream int32) {
			failures <- p.loadStream(stream, share, queues, cmd, func(queue string, body []byte) {
				lock.Lock()
				defer lock.Unlock()
				total.add(queue, body)
			})
		}(cmd.FirstStream + int32(i))
	}
	for i := 0; i < cmd.Streams; i++ {
		if err := <-failures; err != nil {
			return nil, err
		}
	}
	return object{"sums": total.shown()}, nil
}

func (p *producing) loadStream(stream int32, share int64, queues []*primitive.MessageQueue, cmd *command,
	add func(string, []byte)) error {
	next := make([]int64, len(queues))
	for turn, sent := int(stream), int64(0); sent < share; turn++ {
		at := turn % len(queues)
		queue := queues[at]
		messages := []*primitive.Message{}
		for n := int64(0); n < int64(cmd.Batch) && sent+n < share; n++ {
			one := primitive.NewMessage(queue.Topic, loadBody(stream, next[at], cmd.Size))
			one.Queue = queue
			messages = append(messages, one)
			next[at]++
		}
		result, err := p.SendSync(context.Background(), messages...)
		if err != nil {
			return err
		}
		if result.Status != primitive.SendOK || result.MessageQueue.QueueId != queue.QueueId {
			return fmt.Errorf("sent to queue %d, got %s", queue.QueueId, result)
		}
		name := fmt.Sprintf("%s:%d", queue.Topic, queue.QueueId)
		for _, one := range messages {
			add(name, one.Body)
		}
		sent += int64(len(messages))
	}
	return nil
}

// loadReceive has the sums of what one consumer got, and whether each stream came in order.
type loadReceive struct {
	lock          sync.Mutex
	queues        queueSums
	next          map[string]int64
	count         int64
	disorder      int64
	firstDisorder string
}

func newLoadReceive() *loadReceive {
	return &loadReceive{queues: queueSums{}, next: map[string]int64{}}
}

func (l *loadReceive) add(topic string, queueID int, body []byte) {
	l.lock.Lock()
	defer l.lock.Unlock()
	queue := fmt.Sprintf("%s:%d", topic, queueID)
	stream := fmt.Sprintf("%s:%d", queue, int32(binary.BigEndian.Uint32(body)))
	sequence := int64(binary.BigEndian.Uint64(body[4:12]))
	if sequence != l.next[stream] {
		l.disorder++
		if l.firstDisorder == "" {
			l.firstDisorder = fmt.Sprintf("%s: %d came where %d was due", stream, sequence, l.next[stream])
		}
	}
	l.next[stream] = sequence + 1
	l.queues.add(queue, body)
	l.count++
}

func (l *loadReceive) shown() object {
	l.lock.Lock()
	defer l.lock.Unlock()
	return object{"count": l.count, "disorder": l.disorder, "firstDisorder": l.firstDisorder,
		"sums": l.queues.shown()}
}
