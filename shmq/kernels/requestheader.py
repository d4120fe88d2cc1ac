# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Headers of sends and pulls in both serializations, cut into fields without Python objects.

For sends.py and pulls.py; nothing here can be called from Python. A function gives False for
everything that is not plain: such a request takes the general path.
Twin: requestheader_plain.py.

Grammar of the JSON form: one object; the values of extFields are strings; any other value is a
string, an integer of up to 18 digits, true, false or null; no key is written with escapes; blanks
are allowed between tokens; the whole is UTF-8. Fields that are used must not come twice.
Source: spec of the remoting protocol, JSON and ROCKETMQ (binary) headers.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.shmq.kernels.scan import (
    shmq_equal,
    shmq_get16,
    shmq_get32,
    shmq_is_ascii,
    shmq_string_special,
)

BINARY_FIXED_SIZE = cython.declare(cython.Py_ssize_t, 21)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def skip_blanks(at: cython.p_uchar, end: cython.p_uchar) -> cython.p_uchar:
    """The first place that is no blank between tokens, or `end`."""
    while at < end and (at[0] == 32 or at[0] == 9 or at[0] == 10 or at[0] == 13):
        at += 1
    return at


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def hex_digit(char: cython.uchar) -> cython.int:
    """Value of a hexadecimal digit, -1 for anything else."""
    if 48 <= char <= 57:
        return char - 48
    if 97 <= char <= 102:
        return char - 87
    if 65 <= char <= 70:
        return char - 55
    return -1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def hex_unit(at: cython.p_uchar) -> cython.int:
    """UTF-16 unit in four hexadecimal digits, negative when they are none."""
    a: cython.int = hex_digit(at[0])
    b: cython.int = hex_digit(at[1])
    c: cython.int = hex_digit(at[2])
    d: cython.int = hex_digit(at[3])
    if a < 0 or b < 0 or c < 0 or d < 0:
        return -1
    return a << 12 | b << 8 | c << 4 | d


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def json_string(
    at: cython.p_uchar, end: cython.p_uchar, span: cython.pointer(Span)
) -> cython.p_uchar:
    """Place after the string whose opening quote is at `at`; NULL when it is no string."""
    if at >= end or at[0] != 34:
        return cython.NULL
    at += 1
    span.start = at
    span.escaped = False
    while True:
        at = shmq_string_special(at, end)
        if at >= end:
            return cython.NULL
        if at[0] == 34:
            span.size = at - span.start
            return at + 1
        if at[0] != 92 or end - at < 2:
            return cython.NULL
        span.escaped = True
        if at[1] == 117:  # u
            if end - at < 6 or hex_unit(at + 2) < 0:
                return cython.NULL
            at += 6
        elif (
            at[1] == 34
            or at[1] == 92
            or at[1] == 47
            or at[1] == 98
            or at[1] == 102
            or at[1] == 110
            or at[1] == 114
            or at[1] == 116
        ):  # one of "\/bfnrt
            at += 2
        else:
            return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def json_integer(
    at: cython.p_uchar, end: cython.p_uchar, value: cython.pointer(int64_t)
) -> cython.p_uchar:
    """Place after the integer at `at`; NULL when there is none.

    It has up to 18 digits; at a 19th, where no token ends, the caller gives up.
    """
    negative: cython.bint = at < end and at[0] == 45
    if negative:
        at += 1
    first: cython.p_uchar = at
    result: int64_t = 0
    while at < end and 48 <= at[0] <= 57 and at - first < 18:
        result = result * 10 + (at[0] - 48)
        at += 1
    count: cython.Py_ssize_t = at - first
    if count == 0 or (count > 1 and first[0] == 48):
        return cython.NULL
    value[0] = -result if negative else result
    return at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def json_other(at: cython.p_uchar, end: cython.p_uchar) -> cython.p_uchar:
    """Place after a value of no interest; NULL when it is not a plain one."""
    ignored = cython.declare(Span)
    number: int64_t = 0
    if at >= end:
        return cython.NULL
    if at[0] == 34:
        return json_string(at, end, cython.address(ignored))
    if end - at >= 4 and (shmq_equal(at, b"true", 4) or shmq_equal(at, b"null", 4)):
        return at + 4
    if end - at >= 5 and shmq_equal(at, b"false", 5):
        return at + 5
    return json_integer(at, end, cython.address(number))


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def keep(field: cython.pointer(Span), value: cython.pointer(Span)) -> cython.bint:
    """Set a field; False when it is set already."""
    if field.start != cython.NULL:
        return False
    field[0] = value[0]
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def letter_index(letter: cython.uchar) -> cython.int:
    """Field that a letter of SEND_MESSAGE_V2 names; -1 when it is of no interest."""
    if letter == 97:  # a
        return GROUP
    if letter == 98:  # b
        return TOPIC
    if letter == 99:  # c
        return DEFAULT_TOPIC
    if letter == 100:  # d
        return DEFAULT_QUEUE_COUNT
    if letter == 101:  # e
        return QUEUE_ID
    if letter == 102:  # f
        return SYS_FLAG
    if letter == 103:  # g
        return BORN_TIMESTAMP
    if letter == 104:  # h
        return FLAG
    if letter == 105:  # i
        return PROPERTIES
    if letter == 106:  # j
        return RECONSUME_TIMES
    if letter == 108:  # l
        return MAX_RECONSUME_TIMES
    if letter == 109:  # m
        return BATCH
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def name_index(name: cython.p_uchar, size: cython.Py_ssize_t) -> cython.int:
    """Field that a long name of SEND_MESSAGE names; -1: of no interest, -2: a signed request."""
    if size == 4 and shmq_equal(name, b"flag", 4):
        return FLAG
    if size == 5:
        if shmq_equal(name, b"topic", 5):
            return TOPIC
        if shmq_equal(name, b"batch", 5):
            return BATCH
    if size == 7:
        if shmq_equal(name, b"queueId", 7):
            return QUEUE_ID
        if shmq_equal(name, b"sysFlag", 7):
            return SYS_FLAG
    if size == 9 and (shmq_equal(name, b"AccessKey", 9) or shmq_equal(name, b"Signature", 9)):
        return -2
    if size == 10 and shmq_equal(name, b"properties", 10):
        return PROPERTIES
    if size == 12 and shmq_equal(name, b"defaultTopic", 12):
        return DEFAULT_TOPIC
    if size == 13:
        if shmq_equal(name, b"bornTimestamp", 13):
            return BORN_TIMESTAMP
        if shmq_equal(name, b"producerGroup", 13):
            return GROUP
    if size == 14 and shmq_equal(name, b"reconsumeTimes", 14):
        return RECONSUME_TIMES
    if size == 17 and shmq_equal(name, b"maxReconsumeTimes", 17):
        return MAX_RECONSUME_TIMES
    if size == 21 and shmq_equal(name, b"defaultTopicQueueNums", 21):
        return DEFAULT_QUEUE_COUNT
    return -1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def pull_index(name: cython.p_uchar, size: cython.Py_ssize_t) -> cython.int:
    """Field that a name of PULL_MESSAGE names; -1: of no interest, -2: a signed request."""
    if size == 5 and shmq_equal(name, b"topic", 5):
        return PULL_TOPIC
    if size == 7:
        if shmq_equal(name, b"queueId", 7):
            return PULL_QUEUE_ID
        if shmq_equal(name, b"sysFlag", 7):
            return PULL_SYS_FLAG
    if size == 9 and (shmq_equal(name, b"AccessKey", 9) or shmq_equal(name, b"Signature", 9)):
        return -2
    if size == 10:
        if shmq_equal(name, b"maxMsgNums", 10):
            return PULL_COUNT_MAX
        if shmq_equal(name, b"subVersion", 10):
            return PULL_VERSION
    if size == 11:
        if shmq_equal(name, b"queueOffset", 11):
            return PULL_OFFSET
        if shmq_equal(name, b"maxMsgBytes", 11):
            return PULL_SIZE_MAX
    if size == 12:
        if shmq_equal(name, b"commitOffset", 12):
            return PULL_COMMIT_OFFSET
        if shmq_equal(name, b"subscription", 12):
            return PULL_SUBSCRIPTION
    if size == 13:
        if shmq_equal(name, b"consumerGroup", 13):
            return PULL_GROUP
        if shmq_equal(name, b"requestSource", 13):
            return PULL_SOURCE
    if size == 14 and shmq_equal(name, b"expressionType", 14):
        return PULL_EXPRESSION_TYPE
    if size == 20 and shmq_equal(name, b"suspendTimeoutMillis", 20):
        return PULL_SUSPEND_MS
    return -1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def keep_ext(
    header: cython.pointer(RequestHeader), key: cython.pointer(Span), value: cython.pointer(Span)
) -> cython.bint:
    """Remember an ext field that is of interest; False when it came twice or must not be here."""
    index: cython.int
    if header.pulls:
        index = pull_index(key.start, key.size)
    elif key.size == 1:
        index = letter_index(key.start[0])
        return index < 0 or keep(cython.address(header.letters[index]), value)
    else:
        index = name_index(key.start, key.size)
    if index < 0:
        return index == -1
    return keep(cython.address(header.names[index]), value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def json_ext(
    at: cython.p_uchar, end: cython.p_uchar, header: cython.pointer(RequestHeader)
) -> cython.p_uchar:
    """Place after the object of strings whose brace is at `at`; NULL when it is not such a one."""
    key = cython.declare(Span)
    value = cython.declare(Span)
    if at >= end or at[0] != 123:
        return cython.NULL
    at = skip_blanks(at + 1, end)
    if at < end and at[0] == 125:
        return at + 1
    while True:
        at = json_string(at, end, cython.address(key))
        if at == cython.NULL or key.escaped:
            return cython.NULL
        at = skip_blanks(at, end)
        if at >= end or at[0] != 58:
            return cython.NULL
        at = json_string(skip_blanks(at + 1, end), end, cython.address(value))
        if at == cython.NULL:
            return cython.NULL
        if not keep_ext(header, cython.address(key), cython.address(value)):
            return cython.NULL
        at = skip_blanks(at, end)
        if at >= end:
            return cython.NULL
        if at[0] == 125:
            return at + 1
        if at[0] != 44:
            return cython.NULL
        at = skip_blanks(at + 1, end)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_text_member(key: cython.pointer(Span)) -> cython.bint:
    """Whether the member of this name must be text or null, though nobody here reads it."""
    if key.size == 6:
        return shmq_equal(key.start, b"remark", 6)
    return key.size == 8 and shmq_equal(key.start, b"language", 8)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def json_member(
    key: cython.pointer(Span),
    at: cython.p_uchar,
    end: cython.p_uchar,
    header: cython.pointer(RequestHeader),
    seen: cython.pointer(cython.int),
) -> cython.p_uchar:
    """Place after the value at `at` of a member of the outer object; NULL when it is not plain.

    `seen` has a bit for each member of interest that came before.
    """
    bit: cython.int = 0
    number: int64_t = 0
    if key.size == 4 and shmq_equal(key.start, b"code", 4):
        bit = 1
        at = json_integer(at, end, cython.address(header.code))
    elif key.size == 4 and shmq_equal(key.start, b"flag", 4):
        bit = 2
        at = json_integer(at, end, cython.address(header.flag))
    elif key.size == 6 and shmq_equal(key.start, b"opaque", 6):
        bit = 4
        at = json_integer(at, end, cython.address(header.opaque))
    elif key.size == 9 and shmq_equal(key.start, b"extFields", 9):
        bit = 8
        at = json_ext(at, end, header)
    elif key.size == 7 and shmq_equal(key.start, b"version", 7):
        at = json_integer(at, end, cython.address(number))
        if number < -0x80000000 or number > 0x7FFFFFFF:
            return cython.NULL
    elif is_text_member(key):
        if at >= end or (at[0] != 34 and at[0] != 110):  # quote, n of null
            return cython.NULL
        at = json_other(at, end)
    else:
        at = json_other(at, end)
    if seen[0] & bit:
        return cython.NULL
    seen[0] |= bit
    return at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def parse_json(
    at: cython.p_uchar,
    end: cython.p_uchar,
    header: cython.pointer(RequestHeader),
    pulls: cython.bint,
) -> cython.bint:
    """Cut a JSON header into `header`; False when it is not plain."""
    key = cython.declare(Span)
    seen: cython.int = 0
    memset(header, 0, cython.sizeof(RequestHeader))
    header.pulls = pulls
    if not shmq_is_ascii(at, end) and not is_utf8(at, end):
        return False
    at = skip_blanks(at, end)
    if at >= end or at[0] != 123:
        return False
    at = skip_blanks(at + 1, end)
    while True:
        at = json_string(at, end, cython.address(key))
        if at == cython.NULL or key.escaped:
            return False
        at = skip_blanks(at, end)
        if at >= end or at[0] != 58:
            return False
        at = json_member(
            cython.address(key), skip_blanks(at + 1, end), end, header, cython.address(seen)
        )
        if at == cython.NULL:
            return False
        at = skip_blanks(at, end)
        if at >= end:
            return False
        if at[0] == 125:
            return skip_blanks(at + 1, end) == end
        if at[0] != 44:
            return False
        at = skip_blanks(at + 1, end)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def is_text(at: cython.p_uchar, size: cython.Py_ssize_t) -> cython.bint:
    """Whether the bytes are well-formed UTF-8."""
    return shmq_is_ascii(at, at + size) or is_utf8(at, at + size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def parse_binary(
    at: cython.p_uchar,
    end: cython.p_uchar,
    header: cython.pointer(RequestHeader),
    pulls: cython.bint,
) -> cython.bint:
    """Cut a binary header into `header`; False when it is not plain."""
    key = cython.declare(Span)
    value = cython.declare(Span)
    size: int32_t
    memset(header, 0, cython.sizeof(RequestHeader))
    header.pulls = pulls
    if end - at < BINARY_FIXED_SIZE:
        return False
    header.code = shmq_get16(at)
    header.opaque = shmq_get32(at + 5)
    header.flag = shmq_get32(at + 9)
    size = shmq_get32(at + 13)
    if size < 0 or size > end - at - BINARY_FIXED_SIZE or not is_text(at + 17, size):
        return False
    at += 17 + size
    size = shmq_get32(at)
    at += 4
    if size != end - at:
        return False
    value.escaped = False
    key.escaped = False
    while at < end:
        if end - at < 2:
            return False
        key.size = shmq_get16(at)
        key.start = at + 2
        if key.size <= 0 or end - key.start < key.size + 4:
            return False
        at = key.start + key.size
        value.size = shmq_get32(at)
        value.start = at + 4
        if value.size < 0 or end - value.start < value.size:
            return False
        at = value.start + value.size
        if not is_text(key.start, key.size) or not is_text(value.start, value.size):
            return False
        if not keep_ext(header, cython.address(key), cython.address(value)):
            return False
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def decimal(
    field: cython.pointer(Span),
    size_max: cython.Py_ssize_t,
    is_signed: cython.bint,
    limit: int64_t,
    value: cython.pointer(int64_t),
) -> cython.bint:
    """Read a field of decimal digits, at most size_max of them; False when it is anything else."""
    at: cython.p_uchar = field.start
    size: cython.Py_ssize_t = field.size
    index: cython.Py_ssize_t
    result: int64_t = 0
    negative: cython.bint = False
    if at == cython.NULL:
        return False
    if is_signed and size > 0 and at[0] == 45:
        negative = True
        at += 1
        size -= 1
    if size <= 0 or size > size_max:
        return False
    for index in range(size):
        if at[index] < 48 or at[index] > 57:
            return False
        result = result * 10 + (at[index] - 48)
    if negative:
        result = -result
    value[0] = result
    return -limit - 1 <= result <= limit


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_utf8(at: cython.p_uchar, end: cython.p_uchar) -> cython.bint:
    """Whether the bytes are well-formed UTF-8: no surrogates, nothing longer than needed."""
    lead: cython.uchar
    low: cython.uchar
    high: cython.uchar
    more: cython.int
    while at < end:
        lead = at[0]
        at += 1
        if lead < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if end - at < more or at[0] < low or at[0] > high:
            return False
        if more > 1 and at[1] & 0xC0 != 0x80:
            return False
        if more > 2 and at[2] & 0xC0 != 0x80:
            return False
        at += more
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def put_utf8(target: cython.p_uchar, point: cython.int) -> cython.int:
    """Write a code point, at most 4 bytes; gives their number."""
    if point < 0x80:
        target[0] = cython.cast(cython.uchar, point)
        return 1
    if point < 0x800:
        target[0] = cython.cast(cython.uchar, 0xC0 | point >> 6)
        target[1] = cython.cast(cython.uchar, 0x80 | point & 0x3F)
        return 2
    if point < 0x10000:
        target[0] = cython.cast(cython.uchar, 0xE0 | point >> 12)
        target[1] = cython.cast(cython.uchar, 0x80 | point >> 6 & 0x3F)
        target[2] = cython.cast(cython.uchar, 0x80 | point & 0x3F)
        return 3
    target[0] = cython.cast(cython.uchar, 0xF0 | point >> 18)
    target[1] = cython.cast(cython.uchar, 0x80 | point >> 12 & 0x3F)
    target[2] = cython.cast(cython.uchar, 0x80 | point >> 6 & 0x3F)
    target[3] = cython.cast(cython.uchar, 0x80 | point & 0x3F)
    return 4


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def short_escape(char: cython.uchar) -> cython.int:
    """Character that a two-byte escape stands for."""
    if char == 98:
        return 8
    if char == 102:
        return 12
    if char == 110:
        return 10
    if char == 114:
        return 13
    if char == 116:
        return 9
    return char


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unescape(
    at: cython.p_uchar,
    end: cython.p_uchar,
    target: cython.p_uchar,
    target_size_max: cython.Py_ssize_t,
) -> cython.Py_ssize_t:
    """Decode the inside of a JSON string that json_string took; gives the size, in bytes.

    -1 when it holds half a surrogate pair, or more than target_size_max bytes; not more than four
    bytes are written past that.
    """
    size: cython.Py_ssize_t = 0
    run: cython.p_uchar
    point: cython.int
    low: cython.int
    while at < end:
        run = at
        at = shmq_string_special(at, end)
        if at - run > target_size_max - size:
            return -1
        memcpy(target + size, run, at - run)
        size += at - run
        if at >= end:
            break
        if at[1] != 117:
            point = short_escape(at[1])
            at += 2
        else:
            point = hex_unit(at + 2)
            at += 6
            if 0xDC00 <= point <= 0xDFFF:
                return -1
            if 0xD800 <= point <= 0xDBFF:
                if end - at < 6 or at[0] != 92 or at[1] != 117:
                    return -1
                low = hex_unit(at + 2)
                if low < 0xDC00 or low > 0xDFFF:
                    return -1
                at += 6
                point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
        size += put_utf8(target + size, point)
        if size > target_size_max:
            return -1
    return size
