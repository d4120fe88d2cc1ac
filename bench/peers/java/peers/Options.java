package peers;

import java.util.HashMap;
import java.util.Map;

/** The KEY=VALUE arguments of an agent; see bench/peers/python/agent.py. */
public final class Options {
    private final Map<String, String> values = new HashMap<>();
    public final String role;
    public final String mode;
    public final String stream;
    public final int size;
    public final boolean spin;
    public final boolean drain;

    Options(String[] arguments) {
        for (String argument : arguments) {
            int equals = argument.indexOf('=');
            values.put(argument.substring(0, equals), argument.substring(equals + 1));
        }
        role = text("role");
        mode = text("mode");
        stream = text("stream");
        size = (int) number("size", 0);
        spin = number("spin", 0) == 1;
        drain = number("drain", 0) == 1;
    }

    public String text(String name) {
        String value = values.get(name);
        if (value == null) {
            throw new IllegalArgumentException("argument " + name + "= is missing");
        }
        return value;
    }

    public long number(String name, long otherwise) {
        String value = values.get(name);
        return value == null ? otherwise : Long.parseLong(value);
    }

    double seconds(String name) {
        return Double.parseDouble(text(name));
    }

    boolean paced() {
        return mode.equals("latency");
    }
}
