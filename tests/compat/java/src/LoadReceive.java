import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.Map;

/** Sums of what one consumer got, and whether each stream came in order within each queue. */
final class LoadReceive {
    private final LoadSums sums = new LoadSums();
    private final Map<String, Long> next = new HashMap<>();
    private long disorder;
    private String firstDisorder = "";

    synchronized void add(String topic, int queueId, byte[] body) {
        String queue = topic + ":" + queueId;
        ByteBuffer head = ByteBuffer.wrap(body);
        String stream = queue + ":" + head.getInt();
        long sequence = head.getLong();
        long expected = next.getOrDefault(stream, 0L);
        if (sequence != expected) {
            disorder++;
            if (firstDisorder.isEmpty()) {
                firstDisorder = stream + ": " + sequence + " came where " + expected + " was due";
            }
        }
        next.put(stream, sequence + 1);
        sums.add(queue, body);
    }

    synchronized Map<String, Object> shown() {
        Map<String, Object> result = Driver.pair("count", sums.count());
        result.put("disorder", disorder);
        result.put("firstDisorder", firstDisorder);
        result.put("sums", sums.shown());
        return result;
    }
}
