package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// bodyShownMax: bodies up to this size are reported whole, longer ones by length and digest.
const bodyShownMax = 256

func options(cmd *command) ([]consumer.Option, error) {
	result := []consumer.Option{
		consumer.WithNsResolver(resolver(cmd)),
		consumer.WithGroupName(cmd.Group),
		consumer.WithInstance(cmd.Instance),
	}
	for name, value := range cmd.Config {
		switch name {
		case "messageModel":
			if value == "BROADCASTING" {
				result = append(result, consumer.WithConsumerModel(consumer.BroadCasting))
			}
		case "consumeFromWhere":
			if value == "CONSUME_FROM_FIRST_OFFSET" {
				result = append(result, consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
			} else if value == "CONSUME_FROM_TIMESTAMP" {
				result = append(result, consumer.WithConsumeFromWhere(consumer.ConsumeFromTimestamp))
			}
		case "consumeTimestamp":
			result = append(result, consumer.WithConsumeTimestamp(value.(string)))
		case "consumeThreadMin":
			result = append(result, consumer.WithConsumeGoroutineNums(int(value.(float64))))
		case "consumeMessageBatchMaxSize":
			result = append(result, consumer.WithConsumeMessageBatchMaxSize(int(value.(float64))))
		case "pullBatchSize":
			result = append(result, consumer.WithPullBatchSize(int32(value.(float64))))
		default:
			return nil, fmt.Errorf("a Go consumer has no setting %s", name)
		}
	}
	return result, nil
}

// pushed is a push consumer; every delivery becomes an event, or is only counted under load.
type pushed struct {
	rocketmq.PushConsumer
	load *loadReceive
}

func newPushed(cmd *command) (client, error) {
	with, err := options(cmd)
	if err != nil {
		return nil, err
	}
	starting, err := rocketmq.NewPushConsumer(append(with, consumer.WithConsumerOrder(cmd.Orderly))...)
	if err != nil {
		return nil, err
	}
	p := &pushed{starting, nil}
	if cmd.Load {
		p.load = newLoadReceive()
	}
	name, refusals := cmd.Client, cmd.Refusals
	accept := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		for _, one := range messages {
			if p.load != nil {
				p.load.add(one.Topic, one.Queue.QueueId, one.Body)
			} else {
				report(name, one)
			}
			if one.ReconsumeTimes < refusals {
				result = consumer.ConsumeRetryLater
			}
		}
		return result, nil
	}
	for topic, expression := range cmd.Subscriptions {
		selector := consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
		if err := starting.Subscribe(topic, selector, accept); err != nil {
			return nil, err
		}
	}
	return p, starting.Start()
}

func (p *pushed) stop() error {
	return p.Shutdown()
}

func (p *pushed) run(cmd *command) (object, error) {
	switch cmd.Op {
	case "assigned":
		return object{"queues": assigned(p.PushConsumer)}, nil
	case "load_stats":
		return p.load.shown(), nil
	}
	return nil, fmt.Errorf("a Go push consumer has no %s", cmd.Op)
}

// assigned reads the table of queues that the consumer keeps to itself.
func assigned(of interface{}) [][]interface{} {
	inner := reflect.ValueOf(of).Elem().FieldByName("defaultConsumer").Elem()
	table := (*sync.Map)(unsafe.Pointer(inner.FieldByName("processQueueTable").UnsafeAddr()))
	queues := []*primitive.MessageQueue{}
	table.Range(func(key, _ interface{}) bool {
		queue := key.(primitive.MessageQueue)
		queues = append(queues, &queue)
		return true
	})
	return shownQueues(queues)
}

// polled is a pull consumer that rebalances; a goroutine of ours polls it.
type polled struct {
	rocketmq.PullConsumer
	leave, left chan struct{}
}

func newPolled(cmd *command) (client, error) {
	with, err := options(cmd)
	if err != nil {
		return nil, err
	}
	starting, err := rocketmq.NewPullConsumer(with...)
	if err != nil {
		return nil, err
	}
	for topic, expression := range cmd.Subscriptions {
		selector := consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
		if err := starting.Subscribe(topic, selector); err != nil {
			return nil, err
		}
	}
	if err := starting.Start(); err != nil {
		return nil, err
	}
	p := &polled{starting, make(chan struct{}), make(chan struct{})}
	go p.poll(cmd.Client)
	return p, nil
}

func (p *polled) poll(name string) {
	defer close(p.left)
	for {
		select {
		case <-p.leave:
			return
		default:
		}
		request, err := p.Poll(context.Background(), 100*time.Millisecond)
		if err != nil {
			continue
		}
		for _, one := range request.GetMsgList() {
			report(name, one)
		}
		p.ACK(context.Background(), request, consumer.ConsumeSuccess)
	}
}

func (p *polled) run(cmd *command) (object, error) {
	if cmd.Op == "assigned" {
		return object{"queues": assigned(p.PullConsumer)}, nil
	}
	return nil, fmt.Errorf("a Go pull consumer by subscription has no %s", cmd.Op)
}

func (p *polled) stop() error {
	close(p.leave)
	<-p.left
	return p.Shutdown()
}

// pulling is a pull consumer of which each call is one pull.
type pulling struct {
	rocketmq.PullConsumer
	producing
	expression string
}

func newPulling(cmd *command) (client, error) {
	with, err := options(cmd)
	if err != nil {
		return nil, err
	}
	starting, err := rocketmq.NewPullConsumer(with...)
	if err != nil {
		return nil, err
	}
	for topic, expression := range cmd.Subscriptions {
		selector := consumer.MessageSelector{Type: consumer.TAG, Expression: expression}
		if err := starting.Subscribe(topic, selector); err != nil {
			return nil, err
		}
	}
	return &pulling{PullConsumer: starting, producing: producing{namesrv: resolver(cmd).Resolve()}}, starting.Start()
}

func (p *pulling) stop() error {
	return p.PullConsumer.Shutdown()
}

var pullStatuses = map[primitive.PullStatus]string{
	primitive.PullFound:         "FOUND",
	primitive.PullNoNewMsg:      "NO_NEW_MSG",
	primitive.PullNoMsgMatched:  "NO_MATCHED_MSG",
	primitive.PullOffsetIllegal: "OFFSET_ILLEGAL",
}

func (p *pulling) run(cmd *command) (object, error) {
	queues, err := p.queues(cmd.Topic)
	if err != nil {
		return nil, err
	}
	if cmd.Op == "queues" {
		return object{"queues": shownQueues(queues)}, nil
	}
	var queue *primitive.MessageQueue
	for _, one := range queues {
		if one.QueueId == *cmd.QueueID {
			queue = one
		}
	}
	if queue == nil {
		return nil, fmt.Errorf("no queue %d in %v", *cmd.QueueID, queues)
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch cmd.Op {
	case "pull_once":
		result, err := p.PullFrom(ctx, queue, cmd.Offset, int(cmd.Count))
		if err != nil {
			return nil, err
		}
		messages := make([]object, 0)
		for _, one := range result.GetMessageExts() {
			messages = append(messages, shown(one))
		}
		return object{"status": pullStatuses[result.Status], "next": result.NextBeginOffset,
			"min": result.MinOffset, "max": result.MaxOffset, "messages": messages}, nil
	case "store_offset":
		if err := p.UpdateOffset(queue, cmd.Offset); err != nil {
			return nil, err
		}
		return nil, p.PersistOffset(ctx, cmd.Topic)
	case "fetch_offset":
		offset, err := p.CurrentOffset(queue)
		return object{"offset": offset}, err
	}
	return nil, fmt.Errorf("a Go pull consumer has no %s", cmd.Op)
}

func report(name string, one *primitive.MessageExt) {
	event := shown(one)
	event["event"] = "message"
	event["client"] = name
	emit(event)
}

func shown(one *primitive.MessageExt) object {
	digest := sha256.Sum256(one.Body)
	event := object{
		"topic":          one.Topic,
		"queueId":        one.Queue.QueueId,
		"queueOffset":    one.QueueOffset,
		"msgId":          one.MsgId,
		"uniqKey":        one.GetProperty(primitive.PropertyUniqueClientMessageIdKeyIndex),
		"offsetMsgId":    one.OffsetMsgId,
		"tags":           one.GetTags(),
		"keys":           one.GetKeys(),
		"properties":     one.GetProperties(),
		"sysFlag":        one.SysFlag,
		"flag":           one.Flag,
		"length":         len(one.Body),
		"storeSize":      one.StoreSize,
		"sha256":         hex.EncodeToString(digest[:]),
		"reconsumeTimes": one.ReconsumeTimes,
		"bornTimestamp":  one.BornTimestamp,
		"storeTimestamp": one.StoreTimestamp,
		"bornHost":       barred(one.BornHost),
		"storeHost":      barred(one.StoreHost),
		"physicalOffset": one.CommitLogOffset,
	}
	if len(one.Body) <= bodyShownMax {
		event["body"] = one.Body
	}
	return event
}

// barred writes host:port as host|port, which is plain for IPv6 too.
func barred(address string) string {
	at := strings.LastIndex(address, ":")
	if at < 0 {
		return address
	}
	return address[:at] + "|" + address[at+1:]
}
