# Fields of a send request's header as the kernels hand them around; see sendheader.py.
from libc.stdint cimport int32_t, int64_t

cdef enum:
    TOPIC, QUEUE_ID, SYS_FLAG, BORN_TIMESTAMP, FLAG, PROPERTIES, RECONSUME_TIMES, BATCH
    GROUP, DEFAULT_TOPIC, DEFAULT_QUEUE_COUNT, MAX_RECONSUME_TIMES, FIELD_COUNT

cdef struct Span:
    unsigned char *start   # NULL: the field is absent
    Py_ssize_t size
    bint escaped           # holds JSON escapes

cdef struct SendHeader:
    int64_t code
    int64_t opaque
    int64_t flag
    Span letters[12]       # named as in SEND_MESSAGE_V2
    Span names[12]         # named as in SEND_MESSAGE

cdef bint parse_json(unsigned char *at, unsigned char *end, SendHeader *header) noexcept nogil
cdef bint parse_binary(unsigned char *at, unsigned char *end, SendHeader *header) noexcept nogil
cdef bint is_utf8(unsigned char *at, unsigned char *end) noexcept nogil
cdef Py_ssize_t unescape(
    unsigned char *at, unsigned char *end, unsigned char *target, Py_ssize_t target_size_max
) noexcept nogil
