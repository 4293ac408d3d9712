"""How figures are written in tables."""

from __future__ import annotations

__all__ = ("rounded",)


def rounded(value: float, digits: int = 3) -> str:
    """*value* as a whole number from 100 on, and where it is one; else its first *digits*."""
    short = f"{value:.{digits}g}"
    return f"{value:,.0f}" if float(short) >= 100 or value == int(value) else short
