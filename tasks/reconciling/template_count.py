"""Counts the jobs that wait of each template now and then, so that no scrape has to."""

from __future__ import annotations

from tasks.runtime import Runtime


def count_templates(runtime: Runtime) -> None:
    """Count them, unless somebody has done so a moment ago."""
    runtime.ledger.waiting_templates.count()
