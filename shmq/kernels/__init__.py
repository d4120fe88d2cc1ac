"""Compiled loops over batches (Cython, pure Python mode), each beside its plain twin."""
