"""A soak with a ledger: real servers and processes, random faults, every result accounted for."""
