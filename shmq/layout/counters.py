"""Layout of the counters segment: what each process has done since the broker started.

One row a process, ROW_SIZE bytes (a page, so that no two writers share a line), of 8-byte cells,
native byte order. Exactly one process writes a row; its successor goes on from the numbers that it
finds there. A reader adds up rows; it may be a little behind.

    cell  name              kind     counts
       0  CONNECTIONS       gauge    open client connections
       1  ACCEPTED          counter  connections accepted
       2  DROPPED           counter  connections that the broker closed, for whatever reason
       3  REQUESTS          counter  requests of the general path
       4  SENDS             counter  sends given to the writer
       5  SENDS_REFUSED     counter  sends answered with an error
       6  PULLS             counter  pulls answered
       7  PULLS_FOUND       counter  pulls answered with messages
       8  PULLED_MESSAGES   counter  messages in those answers
       9  PULLED_BYTES      counter  bytes of those messages
      10  PULLS_HELD        gauge    pulls that wait for a message
      11  BYTES_IN          counter  bytes read from clients
      12  BAD_FRAMES        counter  connections closed because of what they sent

Written by: serve, each its own row. Read by: coordinator, `shmq status`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from shmq.layout.control import SERVES_MAX

CELL_SIZE: Final = 8
ROW_SIZE: Final = 4096
SEGMENT_SIZE: Final = SERVES_MAX * ROW_SIZE


class Counter(IntEnum):
    """Cells of a row."""

    CONNECTIONS = 0
    ACCEPTED = 1
    DROPPED = 2
    REQUESTS = 3
    SENDS = 4
    SENDS_REFUSED = 5
    PULLS = 6
    PULLS_FOUND = 7
    PULLED_MESSAGES = 8
    PULLED_BYTES = 9
    PULLS_HELD = 10
    BYTES_IN = 11
    BAD_FRAMES = 12


GAUGES: Final = frozenset({Counter.CONNECTIONS, Counter.PULLS_HELD})
assert len(Counter) * CELL_SIZE <= ROW_SIZE
