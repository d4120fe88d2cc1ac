import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.message.MessageExt;

/** A DefaultMQPushConsumer; every delivery becomes an event, or is only counted under load. */
final class Pushed implements Driver.Client {
    private final String name;
    private final DefaultMQPushConsumer consumer;
    private final LoadReceive load;
    /** A message is refused while its reconsumeTimes is below this. */
    private final long refusals;

    Pushed(String name, Args args) throws Exception {
        this.name = name;
        load = args.flag("load") ? new LoadReceive() : null;
        refusals = args.number("refusals", 0);
        consumer = new DefaultMQPushConsumer(args.text("group"));
        consumer.setNamesrvAddr(args.text("namesrv"));
        consumer.setInstanceName(args.text("instance"));
        args.configure(consumer);
        for (Map.Entry<String, Object> entry : args.map("subscriptions").entrySet()) {
            consumer.subscribe(entry.getKey(), entry.getValue().toString());
        }
        if (args.flag("orderly")) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) ->
                    accept(messages) ? ConsumeOrderlyStatus.SUCCESS
                            : ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT);
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) ->
                    accept(messages) ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                            : ConsumeConcurrentlyStatus.RECONSUME_LATER);
        }
        consumer.start();
    }

    @Override
    public Map<String, Object> run(String op, Args args) {
        switch (op) {
            case "assigned":
                return Driver.pair("queues", Queues.shown(
                        consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()));
            case "load_stats":
                return load.shown();
            default:
                throw new IllegalArgumentException("a push consumer has no " + op);
        }
    }

    @Override
    public void stop() {
        consumer.shutdown();
    }

    private boolean accept(List<MessageExt> messages) {
        boolean accepted = true;
        for (MessageExt message : messages) {
            if (load != null) {
                load.add(message.getTopic(), message.getQueueId(), message.getBody());
            } else {
                report(name, message);
            }
            accepted &= message.getReconsumeTimes() >= refusals;
        }
        return accepted;
    }

    static void report(String name, MessageExt message) {
        try {
            Map<String, Object> event = Driver.pair("event", "message");
            event.put("client", name);
            event.putAll(Queues.shown(message));
            Driver.emit(event);
        } catch (Exception error) {
            throw new IllegalStateException("cannot report " + message, error);
        }
    }
}
