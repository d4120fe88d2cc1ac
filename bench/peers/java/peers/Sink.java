package peers;

import java.lang.reflect.Field;
import sun.misc.Unsafe;

/** Takes each body that came: reads all its words, and the latency of a paced one. */
public final class Sink {
    private static final Unsafe UNSAFE = unsafe();
    private static final long BYTES = Unsafe.ARRAY_BYTE_BASE_OFFSET;

    private final boolean drain;
    long count;
    long sum;
    long lastWord;
    long[] latencies;
    int paced;

    Sink(boolean drain) {
        this.drain = drain;
    }

    private static Unsafe unsafe() {
        try {
            Field field = Unsafe.class.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            return (Unsafe) field.get(null);
        } catch (ReflectiveOperationException error) {
            throw new ExceptionInInitializerError(error);
        }
    }

    public void body(byte[] bytes) {
        body(bytes, BYTES, bytes.length);
    }

    /** A body in an array ({@code base}) or, where base is null, at an address. */
    public void body(Object base, long at, int size) {
        lastWord = UNSAFE.getLong(base, at);
        if (latencies != null) {
            if (paced == latencies.length) {
                return; // the END marker
            }
            int number = (int) UNSAFE.getLong(base, at + 8);
            if (latencies[number] != 0) {
                throw new IllegalStateException("message " + number + " came twice");
            }
            latencies[number] = Math.max(1, System.nanoTime() - lastWord);
            paced++;
        }
        count++;
        if (!drain) {
            sum += words(base, at, size);
        }
    }

    private static long words(Object base, long at, int size) {
        long a = 0;
        long b = 0;
        long end = at + (size & ~15);
        long next = at;
        for (; next < end; next += 16) {
            a += UNSAFE.getLong(base, next);
            b += UNSAFE.getLong(base, next + 8);
        }
        return next < at + size ? a + b + UNSAFE.getLong(base, next) : a + b;
    }
}
