"""Runs of whole brokers, each alone on the machine, one after the other."""
