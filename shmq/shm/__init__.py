"""Shared memory: segments, words, rings and doorbells."""
