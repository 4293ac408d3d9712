"""Results from Redis: pub/sub, and what is looked up beside it."""
