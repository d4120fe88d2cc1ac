import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** Sends numbered messages to every queue of some topics, in several streams of one producer. */
final class LoadSend {
    private final DefaultMQProducer producer;
    private final List<MessageQueue> queues = new ArrayList<>();
    private final LoadSums sums = new LoadSums();
    private final long count;
    private final int size;
    private final int batch;
    private final int streams;
    private final int firstStream;

    LoadSend(DefaultMQProducer producer, Args args) throws Exception {
        this.producer = producer;
        for (Object topic : args.list("topics")) {
            queues.addAll(producer.fetchPublishMessageQueues(topic.toString()));
        }
        count = args.number("count");
        size = (int) args.number("size");
        batch = (int) args.number("batch", 1);
        streams = (int) args.number("streams", 1);
        firstStream = (int) args.number("firstStream");
    }

    Map<String, Object> run() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(streams);
        try {
            List<Callable<Void>> work = new ArrayList<>();
            for (int i = 0; i < streams; i++) {
                int stream = firstStream + i;
                long share = count / streams + (i < count % streams ? 1 : 0);
                work.add(() -> send(stream, share));
            }
            for (Future<Void> done : pool.invokeAll(work)) {
                done.get();
            }
        } finally {
            pool.shutdownNow();
        }
        return Driver.pair("sums", sums.shown());
    }

    private Void send(int stream, long share) throws Exception {
        long[] next = new long[queues.size()];
        int turn = stream;
        for (long sent = 0; sent < share; turn++) {
            int at = turn % queues.size();
            MessageQueue queue = queues.get(at);
            int now = (int) Math.min(batch, share - sent);
            List<Message> messages = new ArrayList<>(now);
            for (int i = 0; i < now; i++) {
                messages.add(new Message(queue.getTopic(), LoadSums.body(stream, next[at]++, size)));
            }
            SendResult result = batch == 1
                    ? producer.send(messages.get(0), queue) : producer.send(messages, queue);
            if (result.getSendStatus() != SendStatus.SEND_OK) {
                throw new IllegalStateException(result.toString());
            }
            for (Message message : messages) {
                sums.add(queue.getTopic() + ":" + queue.getQueueId(), message.getBody());
            }
            sent += now;
        }
        return null;
    }
}
