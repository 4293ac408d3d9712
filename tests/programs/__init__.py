"""Programs that tests run as processes of their own.

Nothing is imported here: each decides what comes first, and most have themselves patched.
"""
