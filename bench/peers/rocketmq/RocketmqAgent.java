package rocketmq;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Semaphore;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import peers.Agent;
import peers.Sink;

/** Apache's client: batches sent one after the other, single messages asynchronously, a lite pull consumer. */
public final class RocketmqAgent extends Agent {
    private static final int WINDOW = 256;
    private static final int PULL_MAX = 256;
    private static final int SEND_TIMEOUT_MS = 20_000;
    private static final int POLL_MS = 100;

    private final Semaphore window = new Semaphore(WINDOW);
    private final MessageQueue queue;
    private DefaultMQProducer producer;
    private DefaultLitePullConsumer consumer;
    private volatile Throwable failure;

    private RocketmqAgent(String[] arguments) {
        super(arguments);
        queue = new MessageQueue(options.stream, options.text("broker"), 0);
    }

    public static void main(String[] arguments) {
        new RocketmqAgent(arguments).run();
    }

    @Override
    protected void openSender() throws Exception {
        producer = new DefaultMQProducer("peers_producer");
        producer.setNamesrvAddr(options.text("address"));
        producer.setSendMsgTimeout(SEND_TIMEOUT_MS);
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
    }

    @Override
    protected void openReceiver() throws Exception {
        consumer = new DefaultLitePullConsumer("peers_" + options.stream);
        consumer.setNamesrvAddr(options.text("address"));
        consumer.setPullBatchSize(PULL_MAX);
        consumer.setPullThreadNums(1);
        consumer.start();
        consumer.assign(List.of(queue));
        consumer.seek(queue, 0);
    }

    @Override
    protected void sendPool(byte[][] bodies) throws Exception {
        List<Message> batch = new ArrayList<>(bodies.length);
        for (byte[] body : bodies) {
            batch.add(new Message(options.stream, body));
        }
        check(producer.send(batch, queue, SEND_TIMEOUT_MS));
    }

    private static void check(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("sending: " + result);
        }
    }

    @Override
    protected void sendOne(byte[] body) throws Exception {
        window.acquire();
        producer.send(new Message(options.stream, body), queue, new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                window.release();
            }

            @Override
            public void onException(Throwable error) {
                failure = error;
                window.release();
            }
        }, SEND_TIMEOUT_MS);
    }

    @Override
    protected void flush() throws Exception {
        window.acquire(WINDOW);
        window.release(WINDOW);
        if (failure != null) {
            throw new IllegalStateException("sending", failure);
        }
    }

    @Override
    protected void receive(Sink sink) {
        for (MessageExt message : consumer.poll(POLL_MS)) {
            sink.body(message.getBody());
        }
    }

    @Override
    protected void close() {
        if (producer != null) {
            producer.shutdown();
        } else {
            consumer.shutdown();
        }
    }
}
