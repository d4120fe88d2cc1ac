/*
 * loadgen: one thread that sends (or pulls) messages over RocketMQ's remoting protocol and checks
 * every answer.
 *
 * It exists because a JVM client costs more CPU than the broker it measures. Frames are encoded
 * once; per message only fixed-width places are patched: opaque, queue id, born timestamp,
 * UNIQ_KEY. Latencies run from the intended send time: in an open loop (--rate) from the schedule,
 * in a closed loop from the moment the place in the window was free. Output: JSON lines on stdout:
 * {"event":"measuring"}, {"event":"measured"}, then one {"event":"result",...}. Exit status: 0 when
 * every message was answered with code 0, 1 otherwise, 2 for wrong options.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    FRAME_SIZE_MAX = 16 * 1024 * 1024,
    OPAQUE_BASE = 1000000000, /* keeps every opaque at ten digits */
    OPAQUE_MASK = (1 << 29) - 1,
    CONNECTIONS_MAX = 1024,
    OUTSTANDING_MAX = 65536,
    QUEUES_MAX = 10, /* the queue id is one digit, patched in place */
    BUCKET_BITS = 6, /* 64 buckets for each power of two: quantiles within 1.6 % */
    BUCKET_COUNT = (64 - BUCKET_BITS + 1) << BUCKET_BITS,
    PROPERTY_END = 2,
    RECORD_SIZE_MIN = 91,
    RECORD_QUEUE_OFFSET_AT = 20,
    CODE_PULL = 11,
    CODE_NOT_FOUND = 19,
    CODE_RETRY_IMMEDIATELY = 20,
    CODE_OFFSET_MOVED = 21,
};
static const uint64_t SECOND_NS = 1000000000ull;
static const uint32_t RECORD_MAGIC = 0xdaa320a7u;
static const uint32_t RECORD_MAGIC_V2 = 0xdaa320abu;

struct options {
    const char *connect, *topic, *group, *broker_name;
    int connections, outstanding, size, queues, batch;
    long count;
    double seconds, warmup, rate, answer_timeout;
    bool binary, sync, pull;
};

struct template {
    uint8_t *bytes;
    size_t size, opaque_at, queue_at, born_at, unique_at;
    bool binary;
};

struct slot { /* one place in the window */
    uint32_t value, generation;
    bool busy, measured;
    uint64_t intended_ns;
};

struct connection {
    int fd, index, first_slot, slot_count;
    int *free_slots, free_count;
    uint8_t *out, *in;
    size_t out_at, out_end, out_cap, in_at, in_end, in_cap;
    bool waits_for_write;
};

struct answer {
    int code, flag;
    uint32_t opaque;
    bool binary;
    const uint8_t *header, *body;
    size_t header_size, body_size;
};

struct queue { /* pull mode: one outstanding pull for each queue */
    int id, connection;
    uint32_t opaque;
    long offset, records;
    uint64_t sent_ns;
    bool busy, done;
};

enum phase { WARMING, MEASURING, DRAINING };

static struct options opt = {
    .topic = "loadgen",
    .group = "loadgen",
    .broker_name = "broker",
    .connections = 1,
    .outstanding = 1,
    .size = 1024,
    .queues = 8,
    .batch = 32,
    .answer_timeout = 30,
};
static struct template tmpl;
static struct slot *slots;
static struct connection connections[CONNECTIONS_MAX];
static struct queue queues[QUEUES_MAX];
static int epoll_fd = -1, slot_bits;
static enum phase phase = WARMING;
static uint64_t histogram[BUCKET_COUNT], latency_max_ns, latency_sum_ns, latency_count;
static uint64_t phase_began_ns, measured_began_ns, measured_ended_ns, last_answer_ns;
static long sequence, sent, answered, answered_measured, errors, measured_sent;
static int outstanding, first_error_code;
static char first_error[200];
static double cpu_began_s, cpu_ended_s;
static uint64_t schedule_began_ns;
static long scheduled;

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void *allocate(size_t size) {
    void *place = calloc(1, size);
    if (!place) fail("no memory for %zu bytes", size);
    return place;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get_u64(const uint8_t *p) { return (uint64_t)get_u32(p) << 32 | get_u32(p + 4); }

static void put_u32(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 24), p[1] = (uint8_t)(v >> 16), p[2] = (uint8_t)(v >> 8),
    p[3] = (uint8_t)v;
}

static void put_decimal(uint8_t *p, int width, uint64_t v) {
    for (int i = width - 1; i >= 0; i--, v /= 10)
        p[i] = (uint8_t)('0' + v % 10);
}

static void put_hex(uint8_t *p, int width, uint64_t v) {
    for (int i = width - 1; i >= 0; i--, v >>= 4)
        p[i] = (uint8_t)"0123456789ABCDEF"[v & 15];
}

/* ---- latencies ---- */

static int bucket_of(uint64_t v) {
    if (v < (1u << BUCKET_BITS)) return (int)v;
    int shift = 63 - __builtin_clzll(v) - BUCKET_BITS;
    return ((shift + 1) << BUCKET_BITS) + (int)((v >> shift) - (1u << BUCKET_BITS));
}

static double bucket_middle_us(int bucket) {
    if (bucket < (1 << BUCKET_BITS)) return bucket / 1e3;
    int shift = (bucket >> BUCKET_BITS) - 1;
    uint64_t low = ((uint64_t)(bucket & ((1 << BUCKET_BITS) - 1)) + (1u << BUCKET_BITS)) << shift;
    return ((double)low + (double)((1ull << shift) - 1) / 2) / 1e3;
}

static double quantile_us(double q) {
    uint64_t target = (uint64_t)(q * (double)latency_count + 0.5), seen = 0;
    if (target == 0) target = 1;
    for (int i = 0; i < BUCKET_COUNT; i++)
        if ((seen += histogram[i]) >= target) return bucket_middle_us(i);
    return 0;
}

static void record_latency(uint64_t ns) {
    histogram[bucket_of(ns)]++;
    latency_count++;
    latency_sum_ns += ns;
    if (ns > latency_max_ns) latency_max_ns = ns;
}

/* ---- frames ---- */

struct builder {
    uint8_t *bytes;
    size_t size, cap;
};

static void add(struct builder *b, const void *data, size_t size) {
    if (b->size + size > b->cap)
        fail("a header of more than %zu bytes: shorten --topic, --group", b->cap);
    memcpy(b->bytes + b->size, data, size);
    b->size += size;
}

static void add_format(struct builder *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int size = vsnprintf((char *)b->bytes + b->size, b->cap - b->size, format, args);
    va_end(args);
    if (size < 0 || (size_t)size >= b->cap - b->size)
        fail("a header of more than %zu bytes", b->cap);
    b->size += (size_t)size;
}

static void add_entry(struct builder *b, const char *key,
                      const char *value) { /* binary ext field */
    size_t key_size = strlen(key), value_size = strlen(value);
    uint8_t head[4];
    put_u32(head, (uint32_t)key_size);
    add(b, head + 2, 2);
    add(b, key, key_size);
    put_u32(head, (uint32_t)value_size);
    add(b, head, 4);
    add(b, value, value_size);
}

static void begin_binary(struct builder *b, int code) {
    uint8_t fixed[21] = {(uint8_t)(code >> 8), (uint8_t)code, 0, 2, 1}; /* JAVA, version 513 */
    add(b, fixed, sizeof fixed);
}

static void finish_frame(struct builder *b, size_t body_size, bool binary) {
    size_t header_size = b->size - 8;
    put_u32(b->bytes, (uint32_t)(4 + header_size + body_size));
    put_u32(b->bytes + 4, (uint32_t)header_size | (binary ? 1u << 24 : 0));
    if (binary) put_u32(b->bytes + 8 + 17, (uint32_t)(header_size - 21));
}

static size_t find(const struct builder *b, const char *needle, size_t skip) {
    const uint8_t *at = memmem(b->bytes, b->size, needle, strlen(needle));
    if (!at) fail("the template lacks %s", needle);
    return (size_t)(at - b->bytes) + skip;
}

static void build_send_template(void) {
    size_t cap = 8192 + (size_t)opt.size;
    struct builder b = {allocate(cap), 8, 8192};
    const char *unique = "00000000000000000000000000000000";
    if (opt.binary) {
        char properties[200];
        snprintf(properties, sizeof properties, "UNIQ_KEY\1%.32s\2WAIT\1true\2TAGS\1TagA%c", unique,
                 PROPERTY_END);
        const char *entries[][2] = {{"a", opt.group},
                                    {"b", opt.topic},
                                    {"c", "TBW102"},
                                    {"d", "4"},
                                    {"e", "0"},
                                    {"f", "0"},
                                    {"g", "1700000000000"},
                                    {"h", "0"},
                                    {"i", properties},
                                    {"j", "0"},
                                    {"k", "false"},
                                    {"m", "false"},
                                    {"n", opt.broker_name}};
        begin_binary(&b, 310);
        for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
            if (entries[i][0][0] == 'e') tmpl.queue_at = b.size + 2 + 1 + 4;
            if (entries[i][0][0] == 'g') tmpl.born_at = b.size + 2 + 1 + 4;
            add_entry(&b, entries[i][0], entries[i][1]);
        }
        tmpl.opaque_at = 8 + 5;
        tmpl.unique_at = find(&b, "UNIQ_KEY\1", 9);
    } else {
        add_format(&b,
                   "{\"code\":310,\"extFields\":{\"a\":\"%s\",\"b\":\"%s\",\"c\":\"TBW102\",\"d\":"
                   "\"4\",\"e\":\"0\",\"f\":\"0\","
                   "\"g\":\"1700000000000\",\"h\":\"0\",\"i\":\"UNIQ_KEY\\u0001%."
                   "32s\\u0002WAIT\\u0001true\\u0002TAGS\\u0001TagA"
                   "\\u0002\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\",\"n\":\"%s\"},\"flag\":0,"
                   "\"language\":\"JAVA\","
                   "\"opaque\":%d,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}",
                   opt.group, opt.topic, unique, opt.broker_name, OPAQUE_BASE);
        tmpl.queue_at = find(&b, "\"e\":\"", 5);
        tmpl.born_at = find(&b, "\"g\":\"", 5);
        tmpl.unique_at = find(&b, "UNIQ_KEY\\u0001", 14);
        tmpl.opaque_at = find(&b, "\"opaque\":", 9);
    }
    finish_frame(&b, (size_t)opt.size, opt.binary);
    uint32_t seed = 12345;
    for (int i = 0; i < opt.size; i++) {
        seed = seed * 1664525u + 1013904223u;
        b.bytes[b.size + (size_t)i] = (uint8_t)('a' + (seed >> 24) % 26);
    }
    put_hex(b.bytes + tmpl.unique_at, 12, now_ns() ^ ((uint64_t)getpid() << 24));
    tmpl.bytes = b.bytes, tmpl.size = b.size + (size_t)opt.size, tmpl.binary = opt.binary;
}

static void put_opaque(uint8_t *frame, uint32_t opaque) {
    if (tmpl.binary)
        put_u32(frame + tmpl.opaque_at, opaque);
    else
        put_decimal(frame + tmpl.opaque_at, 10, opaque);
}

static long json_number(const struct answer *a, const char *key, long missing) {
    const uint8_t *at = memmem(a->header, a->header_size, key, strlen(key));
    if (!at) return missing;
    at += strlen(key);
    if (at < a->header + a->header_size && *at == '"') at++;
    bool negative = at < a->header + a->header_size && *at == '-';
    long value = 0;
    for (at += negative; at < a->header + a->header_size && *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (*at - '0');
    return negative ? -value : value;
}

static long ext_number(const struct answer *a, const char *name) {
    if (!a->binary) {
        char key[64];
        snprintf(key, sizeof key, "\"%s\":", name);
        return json_number(a, key, -1);
    }
    size_t name_size = strlen(name), at = 17 + get_u32(a->header + 13) + 4;
    while (at + 2 <= a->header_size) {
        size_t key_size = (size_t)a->header[at] << 8 | a->header[at + 1], key_at = at + 2;
        if (key_at + key_size + 4 > a->header_size) break;
        size_t value_size = get_u32(a->header + key_at + key_size),
               value_at = key_at + key_size + 4;
        if (value_size > a->header_size - value_at) break;
        if (key_size == name_size && memcmp(a->header + key_at, name, name_size) == 0) {
            long value = 0;
            for (size_t i = 0; i < value_size; i++)
                value = value * 10 + (a->header[value_at + i] - '0');
            return value;
        }
        at = value_at + value_size;
    }
    return -1;
}

/* The size of the first whole frame at p, or 0 when more bytes are needed. */
static size_t parse_frame(const uint8_t *p, size_t have, struct answer *a) {
    if (have < 8) return 0;
    uint32_t total = get_u32(p), header_size = get_u32(p + 4) & 0xffffff;
    if (total < 4 || total > FRAME_SIZE_MAX || header_size > total - 4)
        fail("an answer with the lengths %u and %u: the total must be 4 to %d and hold the header",
             total, header_size, FRAME_SIZE_MAX);
    if (have < 4 + (size_t)total) return 0;
    *a = (struct answer){.binary = p[4] == 1,
                         .header = p + 8,
                         .header_size = header_size,
                         .body = p + 8 + header_size,
                         .body_size = total - 4 - header_size};
    if (a->binary) {
        if (header_size < 21 || get_u32(a->header + 13) > header_size - 21)
            fail("a binary header of %u bytes: at least 21, and its remark", header_size);
        a->code = a->header[0] << 8 | a->header[1];
        a->opaque = get_u32(a->header + 5);
        a->flag = (int)get_u32(a->header + 9);
    } else {
        a->code = (int)json_number(a, "\"code\":", -1);
        a->opaque = (uint32_t)json_number(a, "\"opaque\":", -1);
        a->flag = (int)json_number(a, "\"flag\":", -1);
    }
    return 4 + (size_t)total;
}

/* ---- connections ---- */

static int connect_once(void) {
    int fd;
    if (strncmp(opt.connect, "unix:", 5) == 0) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        if (strlen(opt.connect + 5) >= sizeof address.sun_path)
            fail("socket path %s is longer than %zu", opt.connect + 5, sizeof address.sun_path - 1);
        strcpy(address.sun_path, opt.connect + 5);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
            fail("cannot connect to %s: %s", opt.connect, strerror(errno));
        return fd;
    }
    char host[64];
    const char *colon = strrchr(opt.connect, ':');
    if (!colon || (size_t)(colon - opt.connect) >= sizeof host)
        fail("--connect %s: give IPv4:port or unix:path", opt.connect);
    memcpy(host, opt.connect, (size_t)(colon - opt.connect));
    host[colon - opt.connect] = 0;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)atoi(colon + 1))};
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fail("--connect %s: %s is no IPv4 address", opt.connect, host);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("cannot connect to %s: %s", opt.connect, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void open_connections(void) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    while ((1 << slot_bits) < opt.outstanding)
        slot_bits++;
    slots = allocate(sizeof *slots << slot_bits);
    int next = 0;
    for (int i = 0; i < opt.connections; i++) {
        struct connection *c = &connections[i];
        c->fd = connect_once();
        c->index = i, c->first_slot = next;
        c->slot_count = opt.outstanding / opt.connections + (i < opt.outstanding % opt.connections);
        c->free_slots = allocate(sizeof(int) * (size_t)(c->slot_count + 1));
        while (c->free_count < c->slot_count)
            c->free_slots[c->free_count++] = next++;
        c->out_cap = (tmpl.size + 64) * (size_t)(c->slot_count + 1) + 65536;
        c->out = allocate(c->out_cap);
        c->in_cap = 256 * 1024;
        c->in = allocate(c->in_cap);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (!opt.sync) fcntl(c->fd, F_SETFL, O_NONBLOCK);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
            fail("epoll_ctl: %s", strerror(errno));
    }
}

static void flush_connection(struct connection *c) {
    while (c->out_at < c->out_end) {
        ssize_t done = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (done < 0) fail("connection %d: %s", c->index, strerror(errno));
        c->out_at += (size_t)done;
    }
    if (c->out_at == c->out_end) c->out_at = c->out_end = 0;
    bool wait = c->out_at < c->out_end;
    if (wait == c->waits_for_write) return;
    c->waits_for_write = wait;
    struct epoll_event event = {.events = EPOLLIN | (wait ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static uint8_t *reserve(struct connection *c, size_t size) {
    if (c->out_cap - c->out_end < size) {
        memmove(c->out, c->out + c->out_at, c->out_end - c->out_at);
        c->out_end -= c->out_at, c->out_at = 0;
        if (c->out_cap - c->out_end < size)
            fail("output of connection %d is full at %zu bytes", c->index, c->out_cap);
    }
    uint8_t *place = c->out + c->out_end;
    c->out_end += size;
    return place;
}

/* One read of what is there; false when nothing is. */
static bool read_some(struct connection *c) {
    if (c->in_at == c->in_end) c->in_at = c->in_end = 0;
    if (c->in_end == c->in_cap) {
        memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
        c->in_end -= c->in_at, c->in_at = 0;
        if (c->in_end == c->in_cap) {
            if (c->in_cap > 2 * (size_t)FRAME_SIZE_MAX)
                fail("an answer beyond %d bytes", FRAME_SIZE_MAX);
            c->in_cap *= 2;
            if (!(c->in = realloc(c->in, c->in_cap))) fail("no memory for %zu bytes", c->in_cap);
        }
    }
    ssize_t got = recv(c->fd, c->in + c->in_end, c->in_cap - c->in_end, 0);
    if (got == 0)
        fail("connection %d was closed by the broker with %d requests unanswered", c->index,
             outstanding);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got < 0) fail("connection %d: %s", c->index, strerror(errno));
    c->in_end += (size_t)got;
    return true;
}

/* ---- sending ---- */

static void note_error(const struct answer *a) {
    if (errors++ > 0) return;
    first_error_code = a->code;
    const uint8_t *text = a->header;
    size_t size = a->header_size;
    if (a->binary) text += 17, size = get_u32(a->header + 13);
    if (size >= sizeof first_error) size = sizeof first_error - 1;
    for (size_t i = 0; i < size; i++)
        first_error[i] =
            (char)(text[i] >= ' ' && text[i] < 127 && text[i] != '"' && text[i] != '\\' ? text[i]
                                                                                        : ' ');
    first_error[size] = 0;
}

static void put_message(struct connection *c, uint64_t intended_ns, uint64_t wall_ms) {
    int index = c->free_slots[--c->free_count];
    struct slot *s = &slots[index];
    s->value = OPAQUE_BASE + (((s->generation++ << slot_bits) | (uint32_t)index) & OPAQUE_MASK);
    s->busy = true, s->measured = phase == MEASURING, s->intended_ns = intended_ns;
    uint8_t *frame = reserve(c, tmpl.size);
    memcpy(frame, tmpl.bytes, tmpl.size);
    put_opaque(frame, s->value);
    frame[tmpl.queue_at] = (uint8_t)('0' + sequence % opt.queues);
    put_decimal(frame + tmpl.born_at, 13, wall_ms);
    put_hex(frame + tmpl.unique_at + 20, 12, (uint64_t)sequence);
    sequence++, sent++, outstanding++;
    measured_sent += s->measured;
}

static void take_answer(struct connection *c, const struct answer *a, uint64_t now) {
    uint32_t index = (a->opaque - OPAQUE_BASE) & ((1u << slot_bits) - 1);
    struct slot *s = &slots[index];
    if (!s->busy || s->value != a->opaque || !(a->flag & 1) || (int)index < c->first_slot ||
        (int)index >= c->first_slot + c->slot_count)
        fail("connection %d: an answer with opaque %u, code %d, flag %d that nobody waits for",
             c->index, a->opaque, a->code, a->flag);
    if (a->code != 0) note_error(a);
    if (s->measured) record_latency(now - s->intended_ns);
    s->busy = false;
    c->free_slots[c->free_count++] = (int)index;
    outstanding--, answered++;
    if (phase == MEASURING) answered_measured++;
    last_answer_ns = now;
}

static void take_answers(struct connection *c, uint64_t now) {
    struct answer a;
    size_t size;
    while ((size = parse_frame(c->in + c->in_at, c->in_end - c->in_at, &a)) > 0) {
        if (a.flag & 1) take_answer(c, &a, now); /* a request of the broker needs no care */
        c->in_at += size;
    }
}

static uint64_t wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void tell(const char *event) {
    printf("{\"event\":\"%s\"}\n", event);
    fflush(stdout);
}

static bool measured_enough(uint64_t now) {
    if (opt.count > 0) return measured_sent >= opt.count;
    return now - measured_began_ns >= (uint64_t)(opt.seconds * 1e9);
}

static void step_phase(uint64_t now) {
    if (phase == WARMING && now - phase_began_ns >= (uint64_t)(opt.warmup * 1e9)) {
        tell("measuring");
        phase = MEASURING;
        cpu_began_s = cpu_s();
        measured_began_ns = now_ns();
    } else if (phase == MEASURING && measured_enough(now)) {
        cpu_ended_s = cpu_s();
        measured_ended_ns = now;
        phase = DRAINING;
        tell("measured");
    }
}

static bool may_send(void) {
    return phase == WARMING ||
           (phase == MEASURING && (opt.count == 0 || measured_sent < opt.count));
}

/* Closed loop: fill every free place. Open loop: send what is due, wherever a place is free.
 * Returns ns until the next is due. */
static uint64_t send_due(uint64_t now) {
    uint64_t wall = wall_ms();
    if (opt.rate <= 0) {
        for (int i = 0; i < opt.connections; i++)
            while (connections[i].free_count > 0 && may_send())
                put_message(&connections[i], now, wall);
        return SECOND_NS / 10;
    }
    static int turn;
    int tried = 0;
    while (may_send()) {
        uint64_t due = schedule_began_ns + (uint64_t)((double)scheduled * 1e9 / opt.rate);
        if (due > now) return due - now;
        struct connection *c = &connections[turn];
        turn = (turn + 1) % opt.connections;
        if (c->free_count == 0) {
            if (++tried == opt.connections) break;
            continue;
        }
        tried = 0;
        put_message(c, due, wall);
        scheduled++;
    }
    return SECOND_NS / 10;
}

static void run_windowed(void) {
    struct epoll_event events[256];
    prctl(PR_SET_TIMERSLACK, 1ul);
    phase_began_ns = schedule_began_ns = last_answer_ns = now_ns();
    for (;;) {
        uint64_t now = now_ns();
        step_phase(now);
        uint64_t wait = send_due(now);
        for (int i = 0; i < opt.connections; i++)
            if (connections[i].out_at < connections[i].out_end && !connections[i].waits_for_write)
                flush_connection(&connections[i]);
        if (phase == DRAINING && outstanding == 0) return;
        if (outstanding > 0 &&
            now_ns() - last_answer_ns > (uint64_t)(opt.answer_timeout * 1e9) + SECOND_NS)
            fail("%d requests are unanswered for %.0f s: is the broker alive?", outstanding,
                 opt.answer_timeout);
        if (outstanding == 0) last_answer_ns = now;
        struct timespec timeout = {(time_t)(wait / SECOND_NS), (long)(wait % SECOND_NS)};
        int count = epoll_pwait2(epoll_fd, events, 256, &timeout, NULL);
        if (count < 0 && errno != EINTR) fail("epoll_pwait2: %s", strerror(errno));
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) flush_connection(c);
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && read_some(c))
                take_answers(c, now_ns());
        }
    }
}

/* One message at a time on one blocking connection: the round trip without an event loop. */
static void run_sync(void) {
    struct connection *c = &connections[0];
    struct timeval timeout = {(time_t)opt.answer_timeout, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    phase_began_ns = last_answer_ns = now_ns();
    for (;;) {
        step_phase(now_ns());
        if (phase == DRAINING) return;
        put_message(c, now_ns(), wall_ms());
        flush_connection(c);
        while (outstanding > 0) {
            if (!read_some(c))
                fail("no answer within %.0f s: is the broker alive?", opt.answer_timeout);
            take_answers(c, now_ns());
        }
    }
}

/* ---- pulling ---- */

static void put_pull(struct queue *q) {
    struct connection *c = &connections[q->connection];
    uint8_t bytes[4096];
    struct builder b = {bytes, 8, sizeof bytes};
    q->opaque = OPAQUE_BASE + (uint32_t)(sequence++ & (OPAQUE_MASK >> 4)) * 16 + (uint32_t)q->id;
    if (opt.binary) {
        char offset[24], batch[12], id[4];
        snprintf(offset, sizeof offset, "%ld", q->offset);
        snprintf(batch, sizeof batch, "%d", opt.batch);
        snprintf(id, sizeof id, "%d", q->id);
        const char *entries[][2] = {{"consumerGroup", opt.group},
                                    {"topic", opt.topic},
                                    {"queueId", id},
                                    {"queueOffset", offset},
                                    {"maxMsgNums", batch},
                                    {"sysFlag", "4"},
                                    {"commitOffset", "0"},
                                    {"suspendTimeoutMillis", "0"},
                                    {"subscription", "*"},
                                    {"subVersion", "0"},
                                    {"expressionType", "TAG"},
                                    {"maxMsgBytes", "2147483647"},
                                    {"bname", opt.broker_name}};
        begin_binary(&b, CODE_PULL);
        for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
            add_entry(&b, entries[i][0], entries[i][1]);
        put_u32(bytes + 8 + 5, q->opaque);
    } else {
        add_format(&b,
                   "{\"code\":11,\"extFields\":{\"queueId\":\"%d\",\"commitOffset\":\"0\","
                   "\"subscription\":\"*\",\"suspendTimeoutMillis\":"
                   "\"0\",\"bname\":\"%s\",\"sysFlag\":\"4\",\"expressionType\":\"TAG\",\"topic\":"
                   "\"%s\",\"consumerGroup\":\"%s\",\"maxMsgNums\":"
                   "\"%d\",\"queueOffset\":\"%ld\",\"subVersion\":\"0\",\"maxMsgBytes\":"
                   "\"2147483647\"},\"flag\":0,\"language\":\"JAVA\","
                   "\"opaque\":%u,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}",
                   q->id, opt.broker_name, opt.topic, opt.group, opt.batch, q->offset, q->opaque);
    }
    finish_frame(&b, 0, opt.binary);
    memcpy(reserve(c, b.size), bytes, b.size);
    q->busy = true, q->sent_ns = now_ns();
    sent++, outstanding++;
    flush_connection(c);
}

static void count_records(struct queue *q, const struct answer *a) {
    size_t at = 0;
    while (at < a->body_size) {
        uint32_t left = (uint32_t)(a->body_size - at),
                 size = left >= RECORD_SIZE_MIN ? get_u32(a->body + at) : 0;
        if (size < RECORD_SIZE_MIN || size > left)
            fail("queue %d: a record of %u bytes where %u are left", q->id, size, left);
        uint32_t magic = get_u32(a->body + at + 4);
        if (magic != RECORD_MAGIC && magic != RECORD_MAGIC_V2)
            fail("queue %d: a record with the magic %08x", q->id, magic);
        long offset = (long)get_u64(a->body + at + RECORD_QUEUE_OFFSET_AT);
        if (offset != q->offset)
            fail("queue %d: record %ld came where %ld was due", q->id, offset, q->offset);
        q->offset++, q->records++;
        at += size;
    }
}

static void take_pull_answer(const struct answer *a) {
    struct queue *q = &queues[(a->opaque - OPAQUE_BASE) & 15];
    uint64_t now = now_ns();
    if (!q->busy || q->opaque != a->opaque)
        fail("an answer with opaque %u, code %d that nobody waits for", a->opaque, a->code);
    q->busy = false;
    outstanding--, answered++;
    last_answer_ns = now;
    record_latency(now - q->sent_ns);
    long next = ext_number(a, "nextBeginOffset");
    if (a->code == 0)
        count_records(q, a);
    else if (a->code == CODE_NOT_FOUND)
        q->done = true;
    else if ((a->code == CODE_RETRY_IMMEDIATELY || a->code == CODE_OFFSET_MOVED) &&
             next > q->offset)
        q->offset = next;
    else if (a->code == CODE_OFFSET_MOVED && next == q->offset)
        q->done = true; /* an empty queue */
    else {
        note_error(a);
        q->done = true;
    }
    if (a->code == 0 && next != q->offset)
        fail("queue %d: nextBeginOffset %ld after record %ld", q->id, next, q->offset - 1);
    if (!q->done) put_pull(q);
}

static void run_pull(void) {
    struct epoll_event events[64];
    for (int i = 0; i < opt.queues; i++)
        queues[i] = (struct queue){.id = i, .connection = i % opt.connections};
    tell("measuring");
    cpu_began_s = cpu_s();
    measured_began_ns = last_answer_ns = now_ns();
    for (int i = 0; i < opt.queues; i++)
        put_pull(&queues[i]);
    while (outstanding > 0) {
        int count = epoll_wait(epoll_fd, events, 64, 1000);
        if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
        if (now_ns() - last_answer_ns > (uint64_t)(opt.answer_timeout * 1e9))
            fail("no answer within %.0f s: is the broker alive?", opt.answer_timeout);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            struct answer a;
            size_t size;
            if (events[i].events & EPOLLOUT) flush_connection(c);
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || !read_some(c)) continue;
            while ((size = parse_frame(c->in + c->in_at, c->in_end - c->in_at, &a)) > 0) {
                c->in_at += size;
                if (a.flag & 1) take_pull_answer(&a);
            }
        }
    }
    cpu_ended_s = cpu_s();
    measured_ended_ns = last_answer_ns;
    tell("measured");
}

/* ---- result and options ---- */

static void print_result(void) {
    long messages = opt.count > 0 ? measured_sent : answered_measured;
    if (opt.pull)
        for (int i = 0; i < opt.queues; i++)
            messages += queues[i].records;
    if (opt.count > 0 && !opt.pull) measured_ended_ns = last_answer_ns, cpu_ended_s = cpu_s();
    double elapsed = (double)(measured_ended_ns - measured_began_ns) / 1e9,
           cpu = cpu_ended_s - cpu_began_s;
    printf("{\"event\":\"result\",\"mode\":\"%s\",\"transport\":\"%s\",\"serialization\":\"%s\","
           "\"size\":%d,\"connections\":%d,"
           "\"outstanding\":%d,\"rate\":%.1f,\"sent\":%ld,\"answered\":%ld,\"messages\":%ld,"
           "\"errors\":%ld,\"error_code\":%d,"
           "\"error\":\"%s\",\"elapsed_s\":%.6f,\"messages_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":"
           "%.1f,\"p999_us\":%.1f,"
           "\"max_us\":%.1f,\"mean_us\":%.1f,\"cpu_s\":%.6f,\"cpu_us_per_message\":%.3f}\n",
           opt.pull       ? "pull"
           : opt.sync     ? "sync"
           : opt.rate > 0 ? "open"
                          : "closed",
           strncmp(opt.connect, "unix:", 5) == 0 ? "unix" : "tcp", opt.binary ? "binary" : "json",
           opt.size, opt.connections, opt.pull ? opt.queues : opt.outstanding, opt.rate, sent,
           answered, messages, errors, first_error_code, first_error, elapsed,
           elapsed > 0 ? (double)messages / elapsed : 0, quantile_us(0.5), quantile_us(0.99),
           quantile_us(0.999), (double)latency_max_ns / 1e3,
           latency_count ? (double)latency_sum_ns / 1e3 / (double)latency_count : 0, cpu,
           messages ? cpu * 1e6 / (double)messages : 0);
    fflush(stdout);
}

static void usage(const char *why) {
    fprintf(stderr,
            "loadgen: %s\n"
            "usage: loadgen --connect IPv4:PORT|unix:PATH (--count N | --seconds S | --pull) "
            "[--warmup S] [--connections N]\n"
            "  [--outstanding N (in all)] [--size BYTES] [--rate PER_SECOND (0: closed loop)] "
            "[--sync (one at a time)]\n"
            "  [--topic NAME] [--queues 1..10] [--group NAME] [--broker-name NAME] "
            "[--serialization json|binary]\n"
            "  [--batch N (pull)] [--answer-timeout S]\n",
            why);
    exit(2);
}

static bool plain_name(const char *name) {
    size_t size =
        strspn(name, "%|abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return size > 0 && size <= 127 && name[size] == 0;
}

static void parse_options(int argc, char **argv) {
    static const struct option names[] = {
        {"connect", 1, 0, 'c'},       {"connections", 1, 0, 'n'}, {"outstanding", 1, 0, 'w'},
        {"size", 1, 0, 's'},          {"count", 1, 0, 'N'},       {"seconds", 1, 0, 'S'},
        {"warmup", 1, 0, 'W'},        {"rate", 1, 0, 'r'},        {"topic", 1, 0, 't'},
        {"queues", 1, 0, 'q'},        {"group", 1, 0, 'g'},       {"broker-name", 1, 0, 'b'},
        {"serialization", 1, 0, 'z'}, {"batch", 1, 0, 'B'},       {"answer-timeout", 1, 0, 'T'},
        {"sync", 0, 0, 'y'},          {"pull", 0, 0, 'p'},        {0}};
    for (int letter; (letter = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (letter) {
        case 'c': opt.connect = optarg; break;
        case 'n': opt.connections = atoi(optarg); break;
        case 'w': opt.outstanding = atoi(optarg); break;
        case 's': opt.size = atoi(optarg); break;
        case 'N': opt.count = atol(optarg); break;
        case 'S': opt.seconds = atof(optarg); break;
        case 'W': opt.warmup = atof(optarg); break;
        case 'r': opt.rate = atof(optarg); break;
        case 't': opt.topic = optarg; break;
        case 'q': opt.queues = atoi(optarg); break;
        case 'g': opt.group = optarg; break;
        case 'b': opt.broker_name = optarg; break;
        case 'z':
            if (strcmp(optarg, "json") != 0 && strcmp(optarg, "binary") != 0)
                usage("--serialization is json or binary");
            opt.binary = optarg[0] == 'b';
            break;
        case 'B': opt.batch = atoi(optarg); break;
        case 'T': opt.answer_timeout = atof(optarg); break;
        case 'y': opt.sync = true; break;
        case 'p': opt.pull = true; break;
        default: usage("an unknown option");
        }
    if (optind < argc) usage("arguments beyond the options");
    if (!opt.connect) usage("--connect is missing");
    if (!plain_name(opt.topic) || !plain_name(opt.group) || !plain_name(opt.broker_name))
        usage("names are 1 to 127 of % | a-z A-Z 0-9 _ -");
    if (opt.sync || opt.pull)
        opt.connections = opt.sync ? 1 : opt.connections,
        opt.outstanding = opt.sync ? 1 : opt.connections;
    if (opt.connections < 1 || opt.connections > CONNECTIONS_MAX)
        usage("--connections is 1 to 1024");
    if (opt.outstanding < opt.connections || opt.outstanding > OUTSTANDING_MAX)
        usage("--outstanding is --connections to 65536");
    if (opt.size < 1 || opt.size > 4 * 1024 * 1024) usage("--size is 1 to 4194304");
    if (opt.queues < 1 || opt.queues > QUEUES_MAX) usage("--queues is 1 to 10");
    if (opt.batch < 1 || opt.batch > 1024) usage("--batch is 1 to 1024");
    if (!opt.pull && opt.count <= 0 && opt.seconds <= 0) usage("--count or --seconds is missing");
    if (opt.count < 0 || opt.rate < 0 || opt.warmup < 0 || opt.answer_timeout < 1)
        usage("a number below its minimum");
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    build_send_template();
    open_connections();
    if (opt.pull)
        run_pull();
    else if (opt.sync)
        run_sync();
    else
        run_windowed();
    print_result();
    return errors == 0 && answered == sent ? 0 : 1;
}
