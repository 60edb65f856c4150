"""One endpoint: how it is asked, live or in batches, in which words, and how its answers are read."""
