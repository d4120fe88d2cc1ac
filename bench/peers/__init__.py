"""The comparison with what a user with one big host would pick instead: `python -m bench.peers`."""
