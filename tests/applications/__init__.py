"""Whole applications, each a process of its own: whatever has patched the tests is nothing to them.

They run once, beside the modes.
"""
