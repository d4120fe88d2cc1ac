"""Benchmarks: parts of shmq (bench/parts) and the whole broker beside Apache's (bench/host)."""
