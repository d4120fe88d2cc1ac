"""One hypothesis profile: no deadlines, since other processes share the machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "shmq", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shmq")
