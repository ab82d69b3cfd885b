"""Keeps the long runs out of an ordinary test run: they are started by `make chaos`, which asks for their marker."""

from __future__ import annotations

import pytest

MARKER = "chaos"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what carries the marker, unless `-m` names it."""
    if MARKER in config.getoption("markexpr"):
        return
    long_runs = [item for item in items if item.get_closest_marker(MARKER)]
    if long_runs:
        config.hook.pytest_deselected(items=long_runs)
        items[:] = [item for item in items if item not in long_runs]
