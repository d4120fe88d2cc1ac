package peers;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.locks.LockSupport;

/** The agent of the peers that Java drives: the same loop as bench/peers/python/agent.py. */
public abstract class Agent {
    protected final Options options;
    private final Control control = new Control();

    protected Agent(String[] arguments) {
        options = new Options(arguments);
    }

    protected abstract void openSender() throws Exception;

    protected abstract void openReceiver() throws Exception;

    /** Send a batch; what is under way is bounded by the peer's own window. */
    protected abstract void sendPool(byte[][] bodies) throws Exception;

    /** Send one message by itself, so that it leaves now. */
    protected abstract void sendOne(byte[] body) throws Exception;

    /** Wait until all that was sent is accepted. */
    protected abstract void flush() throws Exception;

    /** Hand what has come to the sink; without any, wait as this peer does, 100 ms at most. */
    protected abstract void receive(Sink sink) throws Exception;

    protected abstract void close() throws Exception;

    /** Run to the end; an error ends the process with its trace. */
    protected final void run() {
        int status = 0;
        try {
            if (options.role.equals("produce")) {
                openSender();
                produce();
            } else {
                openReceiver();
                consume();
            }
            close();
        } catch (Throwable error) {
            error.printStackTrace();
            status = 1;
        }
        Runtime.getRuntime().halt(status); // threads of the libraries may live on
    }

    private long flood(byte[][] pool, double seconds, long bytesMax) throws Exception {
        long end = System.nanoTime() + (long) (seconds * 1e9);
        long batchesMax = Math.max(1, bytesMax / ((long) options.size * pool.length));
        long batches = 0;
        while (batches < batchesMax && System.nanoTime() < end) {
            sendPool(pool);
            batches++;
        }
        return batches * pool.length;
    }

    private long floodSingly(byte[][] pool, double seconds, long bytesMax) throws Exception {
        long end = System.nanoTime() + (long) (seconds * 1e9);
        long countMax = Math.max(1, bytesMax / options.size);
        long count = 0;
        for (; count < countMax && System.nanoTime() < end; count++) {
            byte[] body = pool[0].clone();
            Bodies.pace(body, System.nanoTime(), 0);
            sendOne(body);
        }
        return count;
    }

    private void produce() throws Exception {
        byte[][] pool = Bodies.pool(options.size);
        long bytesMax = options.number("bytes_max", 0);
        double warmup = options.seconds("warmup_s");
        long warm = options.paced() ? floodSingly(pool, warmup, bytesMax / 4) : flood(pool, warmup, bytesMax / 4);
        flush();
        sendOne(Bodies.marker(Bodies.WARM, options.size));
        flush();
        control.say("ready", "\"count\": " + warm);
        control.awaitGo();
        long start = System.nanoTime();
        long count = options.number("count", 0);
        if (options.paced()) {
            pace(pool[0], start + 1_000_000, count, options.number("rate", 1));
        } else {
            count = flood(pool, options.seconds("seconds"), bytesMax);
        }
        flush();
        long end = System.nanoTime();
        sendOne(Bodies.marker(Bodies.END, options.size));
        flush();
        control.say("done", "\"count\": " + count + ", \"start_ns\": " + start + ", \"end_ns\": " + end);
        control.awaitExit();
    }

    private void pace(byte[] model, long first, long count, long rate) throws Exception {
        for (long number = 0; number < count; number++) {
            long intended = first + number * 1_000_000_000L / rate;
            byte[] body = model.clone();
            Bodies.pace(body, intended, number);
            for (long left = intended - System.nanoTime(); left > 0; left = intended - System.nanoTime()) {
                if (options.spin) {
                    Thread.onSpinWait();
                } else {
                    LockSupport.parkNanos(left);
                }
            }
            sendOne(body);
        }
    }

    private void consume() throws Exception {
        control.say("attached", "");
        Sink sink = new Sink(options.drain);
        long expect = options.number("expect", 0);
        long warm = options.number("warm", 0);
        while (expect > 0 ? sink.count < warm : sink.lastWord != Bodies.WARM) {
            receive(sink);
        }
        long warmCount = sink.count;
        control.say("ready", "\"count\": " + warmCount);
        control.awaitGo();
        long start = System.nanoTime();
        if (options.paced()) {
            sink.count = 0;
            sink.sum = 0;
            sink.latencies = new long[(int) options.number("count", 0)];
            while (sink.paced < sink.latencies.length) {
                receive(sink);
            }
            write(sink.latencies);
        } else {
            while (expect > 0 ? sink.count < expect : sink.lastWord != Bodies.END) {
                receive(sink);
            }
        }
        long end = System.nanoTime();
        control.say("done", "\"count\": " + sink.count + ", \"sum\": \"" + Long.toUnsignedString(sink.sum)
                + "\", \"warm\": " + warmCount + ", \"start_ns\": " + start + ", \"end_ns\": " + end);
        control.awaitExit();
    }

    private void write(long[] latencies) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(latencies.length * 8).order(ByteOrder.LITTLE_ENDIAN);
        for (long latency : latencies) {
            bytes.putLong(latency);
        }
        Files.write(Path.of(options.text("out")), bytes.array());
    }
}
