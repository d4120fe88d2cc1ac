import java.lang.reflect.Method;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.MQAdmin;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageClientIDSetter;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What producers and consumers share: queues, their offsets, and messages as JSON. */
final class Queues {
    /** Bodies up to this size are reported whole, longer ones by length and digest. */
    private static final int BODY_SHOWN_MAX = 256;

    private Queues() {
    }

    static MessageQueue find(Collection<MessageQueue> queues, long queueId) {
        for (MessageQueue queue : queues) {
            if (queue.getQueueId() == queueId) {
                return queue;
            }
        }
        throw new IllegalArgumentException("no queue " + queueId + " in " + queues);
    }

    static List<Object> shown(Collection<MessageQueue> queues) {
        List<Object> result = new ArrayList<>();
        for (MessageQueue queue : queues) {
            result.add(List.of(queue.getTopic(), queue.getBrokerName(), queue.getQueueId()));
        }
        return result;
    }

    static Map<String, Object> offsets(MQAdmin admin, MessageQueue queue, Args args) throws Exception {
        Map<String, Object> result = Driver.pair("min", admin.minOffset(queue));
        result.put("max", admin.maxOffset(queue));
        if (args.has("timestamp")) {
            result.put("found", admin.searchOffset(queue, args.number("timestamp")));
        }
        if (args.flag("earliest")) {
            result.put("earliest", admin.earliestMsgStoreTime(queue));
        }
        return result;
    }

    /** The call's last parameters changed between 4.9 and 5. */
    static void createTopic(DefaultMQProducer producer, String topic, int count) throws Exception {
        for (Method method : DefaultMQProducer.class.getMethods()) {
            Class<?>[] types = method.getParameterTypes();
            if (!method.getName().equals("createTopic") || types.length < 3 || types[2] != int.class) {
                continue;
            }
            Object[] values = new Object[types.length];
            values[0] = "TBW102";
            values[1] = topic;
            values[2] = count;
            for (int i = 3; i < types.length; i++) {
                values[i] = types[i] == int.class ? (Object) 0 : Map.of();
            }
            method.invoke(producer, values);
            return;
        }
        throw new IllegalStateException("this client has no createTopic");
    }

    static Map<String, Object> shown(MessageExt message) throws Exception {
        byte[] body = message.getBody();
        Map<String, Object> event = new LinkedHashMap<>();
        event.put("topic", message.getTopic());
        event.put("queueId", message.getQueueId());
        event.put("queueOffset", message.getQueueOffset());
        event.put("msgId", message.getMsgId());
        event.put("uniqKey", MessageClientIDSetter.getUniqID(message));
        event.put("offsetMsgId", offsetMsgId(message));
        event.put("tags", message.getTags());
        event.put("keys", message.getKeys());
        event.put("properties", message.getProperties());
        event.put("sysFlag", message.getSysFlag());
        event.put("flag", message.getFlag());
        event.put("length", body.length);
        event.put("storeSize", message.getStoreSize());
        event.put("sha256", hex(MessageDigest.getInstance("SHA-256").digest(body)));
        if (body.length <= BODY_SHOWN_MAX) {
            event.put("body", Base64.getEncoder().encodeToString(body));
        }
        event.put("reconsumeTimes", message.getReconsumeTimes());
        event.put("bornTimestamp", message.getBornTimestamp());
        event.put("storeTimestamp", message.getStoreTimestamp());
        event.put("bornHost", shown(message.getBornHost()));
        event.put("storeHost", shown(message.getStoreHost()));
        event.put("physicalOffset", message.getCommitLogOffset());
        return event;
    }

    /** Consumers get a MessageClientExt, whose getMsgId() is the producer's id. */
    private static String offsetMsgId(MessageExt message) throws Exception {
        try {
            return (String) message.getClass().getMethod("getOffsetMsgId").invoke(message);
        } catch (NoSuchMethodException plainMessage) {
            return message.getMsgId();
        }
    }

    static List<Object> shownAll(Collection<MessageExt> messages) throws Exception {
        List<Object> result = new ArrayList<>();
        if (messages != null) {
            for (MessageExt message : messages) {
                result.add(shown(message));
            }
        }
        return result;
    }

    private static String shown(SocketAddress address) {
        InetSocketAddress host = (InetSocketAddress) address;
        return host.getAddress().getHostAddress() + "|" + host.getPort();
    }

    private static String hex(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (byte b : bytes) {
            out.append(Character.forDigit(b >> 4 & 15, 16)).append(Character.forDigit(b & 15, 16));
        }
        return out.toString();
    }
}
