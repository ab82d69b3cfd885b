"""Mutants that no test can notice, as the mutation run prints them, each with the reason why."""

from __future__ import annotations

EQUIVALENT: dict[str, str] = {}
