"""Where results come from: what all have in common, and the protocols. No green library here."""
