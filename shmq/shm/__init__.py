"""What processes share: segments, words, doorbells, rings. README.md has the rules."""
