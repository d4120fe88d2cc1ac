"""What is on disk: commitlog, consumequeues, index files, checkpoint and tables."""
