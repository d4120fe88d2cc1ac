"""One file for each peer: how it is started, and what its producer and consumer are."""
