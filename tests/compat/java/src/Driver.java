import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Carries out commands of the tests with Apache's Java client.
 *
 * <p>In: one JSON object a line, {"id": n, "op": name, ...}. Out: one answer for each command, in any
 * order, {"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": text}; between them events,
 * {"event": "message", "client": name, ...}. Ends when its input ends.
 */
public final class Driver {
    /** One client that the tests started, under the name that they gave it. */
    interface Client {
        /** The answer to one command addressed to this client. */
        Map<String, Object> run(String op, Args args) throws Exception;

        void stop() throws Exception;
    }

    private static final Map<String, Client> CLIENTS = new ConcurrentHashMap<>();
    private static final PrintStream OUT =
            new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        System.setOut(System.err); // whatever a client prints is no event
        ExecutorService pool = Executors.newCachedThreadPool();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8), 1 << 16);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Map<String, Object> command = Json.object(line);
            pool.execute(() -> answer(command));
        }
        Runtime.getRuntime().halt(0);
    }

    static synchronized void emit(Map<String, Object> event) {
        OUT.print(Json.write(event) + "\n");
        OUT.flush();
    }

    static Map<String, Object> pair(String name, Object value) {
        Map<String, Object> result = new LinkedHashMap<>();
        result.put(name, value);
        return result;
    }

    private static void answer(Map<String, Object> command) {
        Map<String, Object> answer = pair("id", command.get("id"));
        try {
            Map<String, Object> result = run(command.get("op").toString(), new Args(command));
            answer.put("ok", true);
            answer.putAll(result);
        } catch (Throwable error) {
            error.printStackTrace();
            Throwable cause = error instanceof InvocationTargetException ? error.getCause() : error;
            answer.put("ok", false);
            answer.put("error", cause.toString());
        }
        emit(answer);
    }

    private static Map<String, Object> run(String op, Args args) throws Exception {
        String name = args.text("client", "");
        switch (op) {
            case "ping":
                return Map.of();
            case "producer":
                return add(name, new Producing(args));
            case "push":
                return add(name, new Pushed(name, args));
            case "lite":
                return add(name, new Lite(name, args));
            case "pull":
                return add(name, new Pulling(args));
            case "stop":
                Client client = CLIENTS.remove(name);
                if (client != null) {
                    client.stop();
                }
                return Map.of();
            default:
                Client known = CLIENTS.get(name);
                if (known == null) {
                    throw new IllegalArgumentException("no client has the name " + name);
                }
                return known.run(op, args);
        }
    }

    private static Map<String, Object> add(String name, Client client) {
        CLIENTS.put(name, client);
        return Map.of();
    }
}
