package peers;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** The pool of bodies and the markers; see bench/peers/load.py. */
final class Bodies {
    static final long WARM = 0xA11C0DE5A11C0DE5L;
    static final long END = 0xE4DC0DE5E4DC0DE5L;

    private Bodies() {
    }

    static byte[][] pool(int size) {
        byte[][] pool = new byte[size <= 4096 ? 256 : 16][size];
        long number = 0;
        for (byte[] body : pool) {
            ByteBuffer words = ByteBuffer.wrap(body).order(ByteOrder.LITTLE_ENDIAN);
            while (words.hasRemaining()) {
                long word = ++number * 0x9E3779B97F4A7C15L + size;
                word = (word ^ (word >>> 30)) * 0xBF58476D1CE4E5B9L;
                word = (word ^ (word >>> 27)) * 0x94D049BB133111EBL;
                words.putLong(word ^ (word >>> 31));
            }
        }
        return pool;
    }

    static byte[] marker(long word, int size) {
        byte[] body = new byte[size];
        ByteBuffer.wrap(body).order(ByteOrder.LITTLE_ENDIAN).putLong(word);
        return body;
    }

    /** Write the three first words of a paced body: they add up to zero. */
    static void pace(byte[] body, long intendedNs, long number) {
        ByteBuffer words = ByteBuffer.wrap(body).order(ByteOrder.LITTLE_ENDIAN);
        words.putLong(intendedNs).putLong(number).putLong(-(intendedNs + number));
    }
}
