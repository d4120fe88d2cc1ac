# Fields of a request's header as the kernels hand them around; see requestheader.py.
from libc.stdint cimport int32_t, int64_t

cdef enum:
    TOPIC, QUEUE_ID, SYS_FLAG, BORN_TIMESTAMP, FLAG, PROPERTIES, RECONSUME_TIMES, BATCH
    GROUP, DEFAULT_TOPIC, DEFAULT_QUEUE_COUNT, MAX_RECONSUME_TIMES

cdef enum:
    PULL_GROUP, PULL_TOPIC, PULL_SUBSCRIPTION, PULL_EXPRESSION_TYPE, PULL_VERSION
    PULL_QUEUE_ID, PULL_OFFSET, PULL_COUNT_MAX, PULL_SYS_FLAG, PULL_COMMIT_OFFSET
    PULL_SUSPEND_MS, PULL_SIZE_MAX, PULL_SOURCE

cdef struct Span:
    unsigned char *start   # NULL: the field is absent
    Py_ssize_t size
    bint escaped           # holds JSON escapes

cdef struct RequestHeader:
    int64_t code
    int64_t opaque
    int64_t flag
    bint pulls             # which fields are looked for
    Span letters[12]       # named as in SEND_MESSAGE_V2
    Span names[13]         # named as in SEND_MESSAGE, or as in PULL_MESSAGE if pulls

cdef bint parse_json(
    unsigned char *at, unsigned char *end, RequestHeader *header, bint pulls
) noexcept nogil
cdef bint parse_binary(
    unsigned char *at, unsigned char *end, RequestHeader *header, bint pulls
) noexcept nogil
cdef bint decimal(
    Span *field, Py_ssize_t size_max, bint is_signed, int64_t limit, int64_t *value
) noexcept nogil
cdef bint is_utf8(unsigned char *at, unsigned char *end) noexcept nogil
cdef Py_ssize_t unescape(
    unsigned char *at, unsigned char *end, unsigned char *target, Py_ssize_t target_size_max
) noexcept nogil
