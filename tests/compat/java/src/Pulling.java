import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.common.message.MessageQueue;

/** A DefaultMQPullConsumer: one call, one pull. */
final class Pulling implements Driver.Client {
    private final DefaultMQPullConsumer consumer;

    Pulling(Args args) throws Exception {
        consumer = new DefaultMQPullConsumer(args.text("group"));
        consumer.setNamesrvAddr(args.text("namesrv"));
        consumer.setInstanceName(args.text("instance"));
        args.configure(consumer);
        consumer.start();
    }

    @Override
    public Map<String, Object> run(String op, Args args) throws Exception {
        switch (op) {
            case "queues":
                return Driver.pair("queues", Queues.shown(consumer.fetchSubscribeMessageQueues(args.text("topic"))));
            case "pull_once":
                return pull(args);
            case "offsets":
                return Queues.offsets(consumer, queue(args), args);
            case "store_offset":
                consumer.updateConsumeOffset(queue(args), args.number("offset"));
                consumer.getDefaultMQPullConsumerImpl().getOffsetStore().persist(queue(args));
                return Map.of();
            case "fetch_offset":
                return Driver.pair("offset", consumer.fetchConsumeOffset(queue(args), true));
            default:
                throw new IllegalArgumentException("a pull consumer has no " + op);
        }
    }

    @Override
    public void stop() {
        consumer.shutdown();
    }

    private MessageQueue queue(Args args) throws Exception {
        return Queues.find(consumer.fetchSubscribeMessageQueues(args.text("topic")), args.number("queueId"));
    }

    private Map<String, Object> pull(Args args) throws Exception {
        MessageQueue queue = queue(args);
        String expression = args.text("expression", "*");
        long offset = args.number("offset");
        int count = (int) args.number("count", 32);
        PullResult pulled = args.flag("block")
                ? consumer.pullBlockIfNotFound(queue, expression, offset, count)
                : consumer.pull(queue, expression, offset, count);
        Map<String, Object> result = Driver.pair("status", pulled.getPullStatus().name());
        result.put("next", pulled.getNextBeginOffset());
        result.put("min", pulled.getMinOffset());
        result.put("max", pulled.getMaxOffset());
        result.put("messages", Queues.shownAll(pulled.getMsgFoundList()));
        return result;
    }
}
