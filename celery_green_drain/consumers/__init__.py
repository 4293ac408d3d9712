"""Where results come from: one module for each protocol, none of which knows a green library."""
