"""Random histories of the whole public API against real servers, and an oracle that judges them."""
