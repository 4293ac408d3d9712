"""Results from stores that never call: databases, files, and all others."""
