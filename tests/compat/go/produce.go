package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const callTimeout = 60 * time.Second

// producing is a default producer, and the admin client that knows the queues.
type producing struct {
	rocketmq.Producer
	instance string
	namesrv  []string
}

// resolver knows the name servers, which the command has as the Java client takes them.
func resolver(cmd *command) primitive.NsResolver {
	return primitive.NewPassthroughResolver(strings.Split(cmd.Namesrv, ";"))
}

// chooser takes the queue that the message names, else one by sharding key, else the next.
type chooser struct {
	byKey, inTurn producer.QueueSelector
}

func (c chooser) Select(m *primitive.Message, queues []*primitive.MessageQueue, last string) *primitive.MessageQueue {
	if m.Queue != nil {
		for _, queue := range queues {
			if queue.QueueId == m.Queue.QueueId {
				return queue
			}
		}
		return nil
	}
	if m.GetShardingKey() != "" {
		return c.byKey.Select(m, queues, last)
	}
	return c.inTurn.Select(m, queues, last)
}

func newProducing(cmd *command) (client, error) {
	options := []producer.Option{
		producer.WithNsResolver(resolver(cmd)),
		producer.WithGroupName(cmd.Group),
		producer.WithInstanceName(cmd.Instance),
		producer.WithQueueSelector(chooser{producer.NewHashQueueSelector(), producer.NewRoundRobinQueueSelector()}),
		producer.WithRetry(2),
	}
	for name, value := range cmd.Config {
		switch name {
		case "sendMsgTimeout":
			options = append(options, producer.WithSendMsgTimeout(milliseconds(value)))
		case "vipChannelEnabled":
			options = append(options, producer.WithVIPChannel(value.(bool)))
		case "compressMsgBodyOverHowmuch":
			options = append(options, producer.WithCompressMsgBodyOverHowmuch(int(value.(float64))))
		default:
			return nil, fmt.Errorf("a Go producer has no setting %s", name)
		}
	}
	started, err := rocketmq.NewProducer(options...)
	if err != nil {
		return nil, err
	}
	return &producing{started, cmd.Instance, resolver(cmd).Resolve()}, started.Start()
}

func milliseconds(value interface{}) time.Duration {
	return time.Duration(value.(float64)) * time.Millisecond
}

func (p *producing) stop() error {
	return p.Shutdown()
}

func (p *producing) run(cmd *command) (object, error) {
	switch cmd.Op {
	case "send":
		results, err := p.send(cmd)
		return object{"results": results}, err
	case "queues":
		queues, err := p.queues(cmd.Topic)
		return object{"queues": shownQueues(queues)}, err
	case "load_send":
		return p.loadSend(cmd)
	}
	return nil, fmt.Errorf("a Go producer has no %s", cmd.Op)
}

func (p *producing) queues(topic string) ([]*primitive.MessageQueue, error) {
	asking, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(p.namesrv)))
	if err != nil {
		return nil, err
	}
	defer asking.Close()
	return asking.FetchPublishMessageQueues(context.Background(), topic)
}

func (p *producing) send(cmd *command) ([]object, error) {
	messages := make([]*primitive.Message, 0, len(cmd.Messages))
	for i := range cmd.Messages {
		messages = append(messages, built(cmd, &cmd.Messages[i]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch cmd.Mode {
	case "sync":
		results := make([]object, 0, len(messages))
		for _, one := range messages {
			result, err := p.SendSync(ctx, one)
			if err != nil {
				return nil, err
			}
			results = append(results, shownResult(result))
		}
		return results, nil
	case "async":
		return p.sendAsync(ctx, messages)
	case "oneway":
		for _, one := range messages {
			if err := p.SendOneWay(ctx, one); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "batch":
		result, err := p.SendSync(ctx, messages...)
		if err != nil {
			return nil, err
		}
		return []object{shownResult(result)}, nil
	}
	return nil, fmt.Errorf("no such mode: %s", cmd.Mode)
}

func (p *producing) sendAsync(ctx context.Context, messages []*primitive.Message) ([]object, error) {
	results := make([]object, len(messages))
	var open sync.WaitGroup
	for i, one := range messages {
		i := i
		open.Add(1)
		done := func(_ context.Context, result *primitive.SendResult, err error) {
			defer open.Done()
			if err != nil {
				results[i] = object{"error": err.Error()}
				return
			}
			results[i] = shownResult(result)
		}
		if err := p.SendAsync(ctx, done, one); err != nil {
			return nil, err
		}
	}
	all := make(chan struct{})
	go func() { open.Wait(); close(all) }()
	select {
	case <-all:
		return results, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("callbacks are missing after %s", callTimeout)
	}
}

func built(cmd *command, from *message) *primitive.Message {
	result := primitive.NewMessage(from.Topic, from.Body)
	result.Flag = from.Flag
	for name, value := range from.Properties {
		result.WithProperty(name, value)
	}
	if from.Tags != "" {
		result.WithTag(from.Tags)
	}
	if from.Keys != "" {
		result.WithProperty(primitive.PropertyKeys, from.Keys)
	}
	if cmd.SelectorKey != "" {
		result.WithShardingKey(cmd.SelectorKey)
	}
	if cmd.QueueID != nil {
		result.Queue = &primitive.MessageQueue{Topic: from.Topic, QueueId: *cmd.QueueID}
	}
	return result
}

var statuses = map[primitive.SendStatus]string{
	primitive.SendOK:                "SEND_OK",
	primitive.SendFlushDiskTimeout:  "FLUSH_DISK_TIMEOUT",
	primitive.SendFlushSlaveTimeout: "FLUSH_SLAVE_TIMEOUT",
	primitive.SendSlaveNotAvailable: "SLAVE_NOT_AVAILABLE",
}

func shownResult(result *primitive.SendResult) object {
	return object{
		"status":      statuses[result.Status],
		"msgId":       result.MsgID,
		"offsetMsgId": result.OffsetMsgID,
		"broker":      result.MessageQueue.BrokerName,
		"queueId":     result.MessageQueue.QueueId,
		"queueOffset": result.QueueOffset,
	}
}

func shownQueues(queues []*primitive.MessageQueue) [][]interface{} {
	result := make([][]interface{}, 0, len(queues))
	for _, queue := range queues {
		result = append(result, []interface{}{queue.Topic, queue.BrokerName, queue.QueueId})
	}
	return result
}
