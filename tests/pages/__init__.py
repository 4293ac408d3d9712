"""The pages as tests: each block runs as printed, where nothing is but what the page names."""
