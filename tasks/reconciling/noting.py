"""Notes now and then what is asked for often: jobs that wait by template for scrapes, and samples of the last hour."""

from __future__ import annotations

from tasks.runtime import Runtime


def count_templates(runtime: Runtime) -> None:
    """Count them, unless somebody has done so a moment ago."""
    runtime.ledger.waiting_templates.count()


def take_sample(runtime: Runtime) -> None:
    """Take one, unless somebody has done so a moment ago."""
    runtime.ledger.history.note()
