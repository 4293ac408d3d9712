"""Stores that are services of their own, each on a server: ``scripts/test stores``."""
