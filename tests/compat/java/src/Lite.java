import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** A DefaultLitePullConsumer, by subscription or by assigned queues; a thread of ours polls it. */
final class Lite implements Driver.Client {
    private final String name;
    private final DefaultLitePullConsumer consumer;
    private final Thread poller;
    private volatile boolean running = true;

    Lite(String name, Args args) throws Exception {
        this.name = name;
        consumer = new DefaultLitePullConsumer(args.text("group"));
        consumer.setNamesrvAddr(args.text("namesrv"));
        consumer.setInstanceName(args.text("instance"));
        args.configure(consumer);
        for (Map.Entry<String, Object> entry : args.map("subscriptions").entrySet()) {
            consumer.subscribe(entry.getKey(), entry.getValue().toString());
        }
        consumer.start();
        if (args.has("topic")) {
            assign(args);
        }
        poller = new Thread(this::poll, "poll-" + name);
        poller.setDaemon(true);
        poller.start();
    }

    @Override
    public Map<String, Object> run(String op, Args args) throws Exception {
        switch (op) {
            case "assign":
                assign(args);
                return Map.of();
            case "assigned":
                return Driver.pair("queues", Queues.shown(consumer.assignment()));
            case "seek":
                seek(args);
                return Map.of();
            case "commit":
                consumer.commitSync();
                return Map.of();
            case "committed":
                return Driver.pair("offset", consumer.committed(queue(args)));
            case "search":
                return Driver.pair("found", consumer.offsetForTimestamp(queue(args), args.number("timestamp")));
            default:
                throw new IllegalArgumentException("a lite pull consumer has no " + op);
        }
    }

    @Override
    public void stop() throws Exception {
        running = false;
        poller.join();
        consumer.shutdown();
    }

    private void assign(Args args) throws Exception {
        Collection<MessageQueue> all = consumer.fetchMessageQueues(args.text("topic"));
        List<MessageQueue> chosen = new ArrayList<>();
        for (Object queueId : args.list("queueIds")) {
            chosen.add(Queues.find(all, ((Number) queueId).longValue()));
        }
        consumer.assign(chosen);
        if (args.has("offset")) {
            for (MessageQueue queue : chosen) {
                consumer.seek(queue, args.number("offset"));
            }
        }
    }

    private void seek(Args args) throws Exception {
        String where = args.text("offset");
        if (where.equals("begin")) {
            consumer.seekToBegin(queue(args));
        } else if (where.equals("end")) {
            consumer.seekToEnd(queue(args));
        } else {
            consumer.seek(queue(args), Long.parseLong(where));
        }
    }

    private MessageQueue queue(Args args) throws Exception {
        return Queues.find(consumer.fetchMessageQueues(args.text("topic")), args.number("queueId"));
    }

    private void poll() {
        while (running) {
            for (MessageExt message : consumer.poll(100)) {
                Pushed.report(name, message);
            }
        }
    }
}
