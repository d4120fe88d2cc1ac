"""Settings of a broker: the table, the reader of broker.conf, and where values come from. No IO.

table.py       Settings: every key, its limits, its default, its meaning
ignored.py     keys of Apache's broker that mean nothing here
javatext.py    Java's properties syntax
addresses.py   which of this machine's addresses clients are told
sources.py     file, environment and command line to checked Settings
describe.py    the table as text
"""

from __future__ import annotations

from shmq.config.ignored import IGNORED
from shmq.config.sources import apply_reload, check_embedded_namesrv, load
from shmq.config.table import Settings, key_of

__all__ = ["IGNORED", "Settings", "apply_reload", "check_embedded_namesrv", "key_of", "load"]
