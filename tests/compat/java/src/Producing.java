import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** A DefaultMQProducer. */
final class Producing implements Driver.Client {
    private final DefaultMQProducer producer;

    Producing(Args args) throws Exception {
        producer = new DefaultMQProducer(args.text("group"));
        producer.setNamesrvAddr(args.text("namesrv"));
        producer.setInstanceName(args.text("instance"));
        args.configure(producer);
        producer.start();
    }

    @Override
    public Map<String, Object> run(String op, Args args) throws Exception {
        switch (op) {
            case "send":
                return Driver.pair("results", send(args));
            case "create_topic":
                Queues.createTopic(producer, args.text("topic"), (int) args.number("queues"));
                return Map.of();
            case "queues":
                return Driver.pair("queues", Queues.shown(producer.fetchPublishMessageQueues(args.text("topic"))));
            case "offsets":
                return Queues.offsets(producer, queue(args), args);
            case "view":
                return Driver.pair("message", Queues.shown(producer.viewMessage(args.text("topic"), args.text("msgId"))));
            case "query":
                return Driver.pair("messages", query(args));
            case "load_send":
                return new LoadSend(producer, args).run();
            default:
                throw new IllegalArgumentException("a producer has no " + op);
        }
    }

    @Override
    public void stop() {
        producer.shutdown();
    }

    private List<Object> query(Args args) throws Exception {
        List<Object> result = new ArrayList<>();
        QueryResult found = producer.queryMessage(args.text("topic"), args.text("key"), (int) args.number("count"),
            args.number("begin"), args.number("end"));
        for (MessageExt message : found.getMessageList()) {
            result.add(Queues.shown(message));
        }
        return result;
    }

    private MessageQueue queue(Args args) throws Exception {
        return Queues.find(producer.fetchPublishMessageQueues(args.text("topic")), args.number("queueId"));
    }

    private List<Object> send(Args args) throws Exception {
        List<Message> messages = new ArrayList<>();
        for (Map<String, Object> one : args.maps("messages")) {
            messages.add(message(new Args(one)));
        }
        switch (args.text("mode")) {
            case "sync":
                return sendEach(messages, args);
            case "async":
                return sendAsync(messages, args);
            case "oneway":
                for (Message message : messages) {
                    if (args.has("queueId")) {
                        producer.sendOneway(message, queue(args));
                    } else {
                        producer.sendOneway(message);
                    }
                }
                return List.of();
            case "batch":
                return List.of(shown(args.has("queueId")
                        ? producer.send(messages, queue(args)) : producer.send(messages)));
            default:
                throw new IllegalArgumentException("no such mode: " + args.text("mode"));
        }
    }

    private List<Object> sendEach(List<Message> messages, Args args) throws Exception {
        List<Object> results = new ArrayList<>();
        MessageQueue queue = args.has("queueId") ? queue(args) : null;
        for (Message message : messages) {
            if (queue != null) {
                results.add(shown(producer.send(message, queue)));
            } else if (args.has("selectorKey")) {
                results.add(shown(producer.send(message, new SelectMessageQueueByHash(), args.text("selectorKey"))));
            } else {
                results.add(shown(producer.send(message)));
            }
        }
        return results;
    }

    private List<Object> sendAsync(List<Message> messages, Args args) throws Exception {
        Object[] results = new Object[messages.size()];
        CountDownLatch open = new CountDownLatch(results.length);
        for (int i = 0; i < results.length; i++) {
            int index = i;
            SendCallback callback = new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    results[index] = shown(result);
                    open.countDown();
                }

                @Override
                public void onException(Throwable error) {
                    results[index] = Driver.pair("error", error.toString());
                    open.countDown();
                }
            };
            if (args.has("queueId")) {
                producer.send(messages.get(i), queue(args), callback);
            } else {
                producer.send(messages.get(i), callback);
            }
        }
        if (!open.await(60, TimeUnit.SECONDS)) {
            throw new TimeoutException(open.getCount() + " of " + results.length + " callbacks are missing");
        }
        return List.of(results);
    }

    private static Message message(Args args) {
        Message message = new Message(args.text("topic"), args.bytes("body"));
        if (args.has("tags")) {
            message.setTags(args.text("tags"));
        }
        if (args.has("keys")) {
            message.setKeys(args.text("keys"));
        }
        for (Map.Entry<String, Object> entry : args.map("properties").entrySet()) {
            message.putUserProperty(entry.getKey(), entry.getValue().toString());
        }
        message.setFlag((int) args.number("flag", 0));
        return message;
    }

    private static Map<String, Object> shown(SendResult result) {
        Map<String, Object> shown = new LinkedHashMap<>();
        shown.put("status", result.getSendStatus().name());
        shown.put("msgId", result.getMsgId());
        shown.put("offsetMsgId", result.getOffsetMsgId());
        shown.put("broker", result.getMessageQueue().getBrokerName());
        shown.put("queueId", result.getMessageQueue().getQueueId());
        shown.put("queueOffset", result.getQueueOffset());
        return shown;
    }
}
