"""shmq: a message broker for one high-throughput host, in RocketMQ's protocol and store format."""

__version__ = "0.1.0"
