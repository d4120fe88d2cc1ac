import java.nio.ByteBuffer;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.zip.CRC32;

/**
 * Count, sum and exclusive-or of one hash a message, for each queue.
 *
 * <p>A body of the load tests is: stream (int32), sequence in this stream and queue (int64), filler.
 * The Go driver has the same, number for number.
 */
final class LoadSums {
    static final int HEAD_SIZE = 12;

    private final Map<String, long[]> queues = new TreeMap<>();

    static long hash(byte[] body) {
        CRC32 crc = new CRC32();
        crc.update(body);
        long x = crc.getValue() << 32 | ByteBuffer.wrap(body).getLong(4) & 0xffffffffL;
        x = (x ^ x >>> 30) * 0xbf58476d1ce4e5b9L;
        x = (x ^ x >>> 27) * 0x94d049bb133111ebL;
        return x ^ x >>> 31;
    }

    static byte[] body(int stream, long sequence, int size) {
        ByteBuffer body = ByteBuffer.allocate(size);
        body.putInt(stream).putLong(sequence);
        long x = (stream + 1L) * 0x9e3779b97f4a7c15L ^ sequence;
        while (body.remaining() >= 8) {
            x ^= x << 13;
            x ^= x >>> 7;
            x ^= x << 17;
            body.putLong(x);
        }
        return body.array();
    }

    synchronized void add(String queue, byte[] body) {
        long hash = hash(body);
        long[] sums = queues.computeIfAbsent(queue, name -> new long[3]);
        sums[0]++;
        sums[1] += hash;
        sums[2] ^= hash;
    }

    synchronized Map<String, Object> shown() {
        Map<String, Object> result = new LinkedHashMap<>();
        queues.forEach((queue, sums) -> result.put(queue,
                sums[0] + " " + Long.toHexString(sums[1]) + " " + Long.toHexString(sums[2])));
        return result;
    }

    synchronized long count() {
        return queues.values().stream().mapToLong(sums -> sums[0]).sum();
    }
}
