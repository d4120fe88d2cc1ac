// Carries out commands of the tests with Apache's Go client.
//
// In: one JSON object a line, {"id": n, "op": name, ...}. Out: one answer for each command, in any
// order, {"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": text}; between them events,
// {"event": "message", "client": name, ...}. Ends when its input ends. The Java driver is its twin.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
)

type object = map[string]interface{}

// command has the arguments of all operations; each reads its own.
type command struct {
	ID     int64  `json:"id"`
	Op     string `json:"op"`
	Client string `json:"client"`

	Group         string                 `json:"group"`
	Namesrv       string                 `json:"namesrv"`
	Instance      string                 `json:"instance"`
	Config        map[string]interface{} `json:"config"`
	Subscriptions map[string]string      `json:"subscriptions"`
	Orderly       bool                   `json:"orderly"`
	Load          bool                   `json:"load"`
	Refusals      int32                  `json:"refusals"`

	Mode        string    `json:"mode"`
	Messages    []message `json:"messages"`
	QueueID     *int      `json:"queueId"`
	SelectorKey string    `json:"selectorKey"`

	Topic  string   `json:"topic"`
	Topics []string `json:"topics"`
	Queues int      `json:"queues"`
	Offset int64    `json:"offset"`
	Count  int64    `json:"count"`

	Size        int   `json:"size"`
	Batch       int   `json:"batch"`
	Streams     int   `json:"streams"`
	FirstStream int32 `json:"firstStream"`
}

type message struct {
	Topic      string            `json:"topic"`
	Body       []byte            `json:"body"`
	Tags       string            `json:"tags"`
	Keys       string            `json:"keys"`
	Properties map[string]string `json:"properties"`
	Flag       int32             `json:"flag"`
}

// client is what the tests started under a name.
type client interface {
	run(cmd *command) (object, error)
	stop() error
}

var (
	clients   sync.Map
	output    = bufio.NewWriter(os.Stdout)
	outputTip sync.Mutex
)

func emit(event object) {
	line, err := json.Marshal(event)
	if err != nil {
		panic(err)
	}
	outputTip.Lock()
	defer outputTip.Unlock()
	output.Write(line)
	output.WriteByte('\n')
	output.Flush()
}

func answer(cmd *command) {
	result, err := guarded(cmd)
	if result == nil {
		result = object{}
	}
	result["id"] = cmd.ID
	result["ok"] = err == nil
	if err != nil {
		result["error"] = err.Error()
	}
	emit(result)
}

func guarded(cmd *command) (result object, err error) {
	defer func() {
		if trouble := recover(); trouble != nil {
			err = fmt.Errorf("panic: %v\n%s", trouble, debug.Stack())
		}
	}()
	return run(cmd)
}

func run(cmd *command) (object, error) {
	switch cmd.Op {
	case "ping":
		return nil, nil
	case "producer":
		return nil, add(cmd, newProducing)
	case "push":
		return nil, add(cmd, newPushed)
	case "lite":
		return nil, add(cmd, newPolled)
	case "pull":
		return nil, add(cmd, newPulling)
	case "stop":
		known, found := clients.LoadAndDelete(cmd.Client)
		if !found {
			return nil, nil
		}
		return nil, known.(client).stop()
	}
	known, found := clients.Load(cmd.Client)
	if !found {
		return nil, fmt.Errorf("no client has the name %q", cmd.Client)
	}
	return known.(client).run(cmd)
}

func add(cmd *command, start func(*command) (client, error)) error {
	started, err := start(cmd)
	if err != nil {
		return err
	}
	clients.Store(cmd.Client, started)
	return nil
}

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		cmd := new(command)
		if err := json.Unmarshal(line, cmd); err != nil {
			fmt.Fprintln(os.Stderr, "command cannot be read:", err)
			os.Exit(2)
		}
		go answer(cmd)
	}
}
