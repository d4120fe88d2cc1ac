package chronicle;

import java.io.File;
import net.openhft.chronicle.bytes.Bytes;
import net.openhft.chronicle.queue.ChronicleQueue;
import net.openhft.chronicle.queue.ExcerptAppender;
import net.openhft.chronicle.queue.ExcerptTailer;
import net.openhft.chronicle.threads.Pauser;
import net.openhft.chronicle.wire.DocumentContext;
import peers.Agent;
import peers.Sink;

/** Chronicle Queue: one queue folder, an appender and a tailer in two processes. */
public final class ChronicleAgent extends Agent {
    private static final int DOCUMENTS_MAX = 256;

    private ChronicleQueue queue;
    private ExcerptAppender appender;
    private ExcerptTailer tailer;
    private Pauser pauser;

    private ChronicleAgent(String[] arguments) {
        super(arguments);
    }

    public static void main(String[] arguments) {
        new ChronicleAgent(arguments).run();
    }

    private void open() {
        queue = ChronicleQueue.singleBuilder(new File(options.stream)).build();
        pauser = options.spin ? Pauser.busy() : Pauser.sleepy();
    }

    @Override
    protected void openSender() {
        open();
        appender = queue.createAppender();
    }

    @Override
    protected void openReceiver() {
        open();
        tailer = queue.createTailer().toStart();
    }

    @Override
    protected void sendPool(byte[][] bodies) {
        for (byte[] body : bodies) {
            sendOne(body);
        }
    }

    @Override
    protected void sendOne(byte[] body) {
        try (DocumentContext document = appender.writingDocument()) {
            document.wire().bytes().write(body);
        }
    }

    @Override
    protected void flush() {
        // An excerpt is there for every tailer when its document is closed.
    }

    @Override
    protected void receive(Sink sink) {
        for (int got = 0; got < DOCUMENTS_MAX; got++) {
            try (DocumentContext document = tailer.readingDocument()) {
                if (!document.isPresent()) {
                    pauser.pause();
                    return;
                }
                Bytes<?> bytes = document.wire().bytes();
                sink.body(null, bytes.addressForRead(bytes.readPosition()), (int) bytes.readRemaining());
            }
            pauser.reset();
        }
    }

    @Override
    protected void close() {
        queue.close();
    }
}
