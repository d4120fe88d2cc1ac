// NATS JetStream: a stream in files, published to asynchronously, read by an ordered consumer.
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	askTime     = 30 * time.Second
	pendingMax  = 4096
	pendingSize = 16 << 20
	pullSize    = 8 << 20
	pullMax     = 4096
)

type natsPeer struct {
	stream   string
	conn     *nats.Conn
	js       jetstream.JetStream
	messages jetstream.MessagesContext
	failed   atomic.Pointer[error]
}

func connect(o options) (*natsPeer, error) {
	p := &natsPeer{stream: o.text("stream")}
	var err error
	if p.conn, err = nats.Connect(o.text("address")); err != nil {
		return nil, err
	}
	pending := min(pendingMax, max(16, pendingSize/int(o.number("size", 1))))
	p.js, err = jetstream.New(p.conn, jetstream.WithPublishAsyncMaxPending(pending),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
			p.failed.CompareAndSwap(nil, &err)
		}))
	return p, err
}

func (p *natsPeer) open(o options) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	stream, err := p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: p.stream, Subjects: []string{p.stream}, Storage: jetstream.FileStorage,
	})
	if err != nil || o.text("role") == "produce" {
		return err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	batch := min(pullMax, max(64, pullSize/int(o.number("size", 1))))
	p.messages, err = consumer.Messages(jetstream.PullMaxMessages(batch))
	return err
}

func (p *natsPeer) sendPool(bodies [][]byte) error {
	for _, body := range bodies {
		if err := p.sendOne(body); err != nil {
			return err
		}
	}
	return nil
}

func (p *natsPeer) sendOne(body []byte) error {
	_, err := p.js.PublishAsync(p.stream, body, jetstream.WithStallWait(askTime))
	return err
}

func (p *natsPeer) flush() error {
	select {
	case <-p.js.PublishAsyncComplete():
	case <-time.After(askTime):
		return fmt.Errorf("%d messages were not acknowledged in time", p.js.PublishAsyncPending())
	}
	if err := p.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (p *natsPeer) receive(into *sink) error {
	message, err := p.messages.Next()
	if err != nil {
		return err
	}
	into.body(message.Data())
	return nil
}

func (p *natsPeer) close() {
	if p.messages != nil {
		p.messages.Stop()
	}
	p.conn.Close()
}

func main() {
	o := parse(os.Args[1:])
	p, err := connect(o)
	check(err)
	switch o.text("role") {
	case "forget":
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		defer cancel()
		check(p.js.DeleteStream(ctx, p.stream))
	case "produce":
		check(p.open(o))
		produce(o, p, newControl())
	default:
		check(p.open(o))
		consume(o, p, newControl())
	}
	p.close()
}
