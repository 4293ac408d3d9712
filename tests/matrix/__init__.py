"""The tests in environments of other versions. See ``scripts/matrix``."""
