"""Texts of others in files that spreadsheets open."""

from __future__ import annotations

#: What a spreadsheet takes for the beginning of a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def as_text(text: str) -> str:
    """Return a text as a cell that no spreadsheet takes for a formula: such a one has an apostrophe before it."""
    return f"'{text}" if text.startswith(_FORMULAS) else text
