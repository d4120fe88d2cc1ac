package peers;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.concurrent.CountDownLatch;

/** The harness on standard input and output: events out, `go` and `exit` in; its end is ours. */
final class Control {
    private final PrintStream out = System.out;
    private final CountDownLatch go = new CountDownLatch(1);
    private final CountDownLatch exit = new CountDownLatch(1);

    Control() {
        System.setOut(System.err); // what libraries print is no event
        Thread listener = new Thread(this::listen, "control");
        listener.setDaemon(true);
        listener.start();
    }

    private void listen() {
        try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in))) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                if (line.equals("go")) {
                    go.countDown();
                } else if (line.equals("exit")) {
                    exit.countDown();
                }
            }
        } catch (IOException error) {
            System.err.println("standard input: " + error);
        }
        if (exit.getCount() != 0) {
            Runtime.getRuntime().halt(3);
        }
    }

    /** `facts` is the rest of a JSON object, such as {@code "count": 3}. */
    void say(String event, String facts) {
        String rest = facts.isEmpty() ? "" : ", " + facts;
        out.println("{\"event\": \"" + event + "\"" + rest + "}");
        out.flush();
    }

    void awaitGo() throws InterruptedException {
        go.await();
    }

    void awaitExit() throws InterruptedException {
        exit.await();
    }
}
