package aeron;

import io.aeron.Aeron;
import io.aeron.ExclusivePublication;
import io.aeron.FragmentAssembler;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.archive.client.AeronArchive;
import io.aeron.archive.status.RecordingPos;
import io.aeron.logbuffer.BufferClaim;
import io.aeron.logbuffer.FragmentHandler;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import org.agrona.concurrent.BackoffIdleStrategy;
import org.agrona.concurrent.BusySpinIdleStrategy;
import org.agrona.concurrent.IdleStrategy;
import org.agrona.concurrent.UnsafeBuffer;
import org.agrona.concurrent.status.CountersReader;
import peers.Agent;
import peers.Sink;

/** Aeron over IPC; with archive=1 what is sent is recorded, and consumed as a replay that follows. */
public final class AeronAgent extends Agent {
    private static final int FRAGMENTS_MAX = 256;
    private static final int REPLAY_STREAM = 1;
    private static final long OPEN_WAIT_NS = TimeUnit.MILLISECONDS.toNanos(1);
    private static final long ANSWER_NS = TimeUnit.SECONDS.toNanos(20);
    private static final long START_NS = TimeUnit.SECONDS.toNanos(30);

    private final boolean archived;
    private final String channel;
    private final int streamId;
    private final IdleStrategy idle;
    private final BufferClaim claim = new BufferClaim();
    private final UnsafeBuffer wrapper = new UnsafeBuffer();
    private Aeron aeron;
    private AeronArchive archive;
    private ExclusivePublication publication;
    private Subscription subscription;
    private int recordingCounter;
    private FragmentHandler handler;
    private Sink sink;

    private AeronAgent(String[] arguments) {
        super(arguments);
        archived = options.number("archive", 0) == 1;
        channel = "aeron:ipc?term-length=64m";
        streamId = 2 + (options.stream.hashCode() & 0xFFFFFF);
        idle = options.spin ? BusySpinIdleStrategy.INSTANCE : new BackoffIdleStrategy();
    }

    public static void main(String[] arguments) {
        new AeronAgent(arguments).run();
    }

    private void connect() {
        aeron = Aeron.connect(new Aeron.Context().aeronDirectoryName(options.text("dir")).idleStrategy(
                new BackoffIdleStrategy()));
        if (archived) {
            archive = AeronArchive.connect(new AeronArchive.Context().aeron(aeron).messageTimeoutNs(ANSWER_NS)
                    .controlRequestChannel("aeron:ipc").controlResponseChannel("aeron:ipc"));
        }
    }

    /** While opening, nobody spins: driver and archive need the cores. */
    private static void idleUntil(long deadline, String what) {
        if (System.nanoTime() > deadline) {
            throw new IllegalStateException(what + ": not in time");
        }
        LockSupport.parkNanos(OPEN_WAIT_NS);
    }

    @Override
    protected void openSender() {
        connect();
        long deadline = System.nanoTime() + START_NS;
        if (archived) {
            publication = archive.addRecordedExclusivePublication(channel, streamId);
            CountersReader counters = aeron.countersReader();
            do {
                recordingCounter = RecordingPos.findCounterIdBySession(counters, publication.sessionId());
                idleUntil(deadline, "recording");
            } while (recordingCounter == CountersReader.NULL_COUNTER_ID);
        } else {
            publication = aeron.addExclusivePublication(channel, streamId);
            while (!publication.isConnected()) {
                idleUntil(deadline, "subscriber");
            }
        }
    }

    @Override
    protected void openReceiver() {
        connect();
        if (!archived) {
            subscription = aeron.addSubscription("aeron:ipc", streamId);
        }
        FragmentHandler direct = (buffer, offset, length, header) -> sink.body(buffer.byteArray(),
                buffer.addressOffset() + offset, length);
        handler = options.size <= 1024 ? direct : new FragmentAssembler(direct);
    }

    /** The replay of a recording that may not have begun; follows it while it is written. */
    private void replay() {
        long[] recording = {-1};
        long deadline = System.nanoTime() + START_NS;
        while (archive.listRecordingsForUri(0, 1, "aeron:ipc", streamId,
                (a, b, id, d, e, f, g, h, i, j, k, l, m, n, o, p) -> recording[0] = id) == 0) {
            idleUntil(deadline, "recording");
        }
        subscription = archive.replay(recording[0], 0, Long.MAX_VALUE, "aeron:ipc", streamId + REPLAY_STREAM);
    }

    @Override
    protected void sendPool(byte[][] bodies) {
        for (byte[] body : bodies) {
            sendOne(body);
        }
    }

    @Override
    protected void sendOne(byte[] body) {
        idle.reset();
        if (body.length <= publication.maxPayloadLength()) {
            while (refused(publication.tryClaim(body.length, claim))) {
                idle.idle();
            }
            claim.buffer().putBytes(claim.offset(), body);
            claim.commit();
        } else {
            wrapper.wrap(body);
            while (refused(publication.offer(wrapper))) {
                idle.idle();
            }
        }
    }

    private static boolean refused(long position) {
        if (position == Publication.CLOSED || position == Publication.MAX_POSITION_EXCEEDED) {
            throw new IllegalStateException("the publication answers " + position);
        }
        return position < 0;
    }

    @Override
    protected void flush() {
        if (archived) {
            long position = publication.position();
            CountersReader counters = aeron.countersReader();
            while (counters.getCounterValue(recordingCounter) < position) {
                idle.idle();
            }
            idle.reset();
        }
    }

    @Override
    protected void receive(Sink into) {
        sink = into;
        if (subscription == null) {
            replay();
        }
        idle.idle(subscription.poll(handler, FRAGMENTS_MAX));
    }

    @Override
    protected void close() {
        if (archive != null) {
            if (publication != null) {
                archive.stopRecording(publication);
            }
            archive.close();
        }
        aeron.close();
    }
}
