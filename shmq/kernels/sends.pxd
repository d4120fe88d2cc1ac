# Why SendParser.feed() stopped; the same numbers are in sends_plain.py.
cpdef enum:
    NEED_MORE = 1   # no whole frame is left at .position
    OTHER = 2       # the frame at .position is for the general path
    RING_FULL = 3   # the frame at .position finds no room: reap, then feed again
    BAD_FRAME = 4   # lengths that cannot be: close the connection
