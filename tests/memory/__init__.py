"""What a process keeps of the results that have passed through it."""
