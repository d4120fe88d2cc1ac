import java.lang.reflect.Method;
import java.util.Base64;
import java.util.List;
import java.util.Map;

/** The arguments of one command, read with their types. */
final class Args {
    private final Map<String, Object> values;

    Args(Map<String, Object> values) {
        this.values = values;
    }

    boolean has(String name) {
        return values.get(name) != null;
    }

    String text(String name) {
        Object value = values.get(name);
        if (value == null) {
            throw new IllegalArgumentException("argument missing: " + name);
        }
        return value.toString();
    }

    String text(String name, String otherwise) {
        return has(name) ? text(name) : otherwise;
    }

    long number(String name) {
        return Long.parseLong(text(name));
    }

    long number(String name, long otherwise) {
        return has(name) ? number(name) : otherwise;
    }

    boolean flag(String name) {
        return Boolean.TRUE.equals(values.get(name));
    }

    byte[] bytes(String name) {
        return Base64.getDecoder().decode(text(name, ""));
    }

    @SuppressWarnings("unchecked")
    Map<String, Object> map(String name) {
        return has(name) ? (Map<String, Object>) values.get(name) : Map.of();
    }

    @SuppressWarnings("unchecked")
    List<Map<String, Object>> maps(String name) {
        return has(name) ? (List<Map<String, Object>>) values.get(name) : List.of();
    }

    @SuppressWarnings("unchecked")
    List<Object> list(String name) {
        return has(name) ? (List<Object>) values.get(name) : List.of();
    }

    /** Calls target.setName(value) for each entry: settings that only some client versions have. */
    void configure(Object target) throws ReflectiveOperationException {
        for (Map.Entry<String, Object> entry : map("config").entrySet()) {
            String name = entry.getKey();
            set(target, name, entry.getValue().toString());
        }
    }

    static void set(Object target, String name, String value) throws ReflectiveOperationException {
        String setter = "set" + Character.toUpperCase(name.charAt(0)) + name.substring(1);
        for (Method method : target.getClass().getMethods()) {
            if (method.getName().equals(setter) && method.getParameterCount() == 1) {
                method.invoke(target, convert(method.getParameterTypes()[0], value));
                return;
            }
        }
        throw new IllegalArgumentException(target.getClass().getSimpleName() + " has no " + setter);
    }

    @SuppressWarnings({"unchecked", "rawtypes"})
    private static Object convert(Class<?> type, String value) {
        if (type == int.class) {
            return Integer.valueOf(value);
        }
        if (type == long.class) {
            return Long.valueOf(value);
        }
        if (type == boolean.class) {
            return Boolean.valueOf(value);
        }
        return type.isEnum() ? Enum.valueOf((Class<Enum>) type, value) : value;
    }
}
