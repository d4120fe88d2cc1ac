"""Byte layouts of files and shared segments, each described once."""
