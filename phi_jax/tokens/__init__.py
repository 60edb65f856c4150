"""Text to token shards, token shards to batches."""
