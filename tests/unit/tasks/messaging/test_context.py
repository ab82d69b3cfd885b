"""What the tasks of one process find on its app."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.messaging.context import attach_context, context_of


def test_a_process_holds_at_most_one_object_of_a_class() -> None:
    app: Any = SimpleNamespace()
    context = attach_context(app, "io")
    assert context_of(app) is context
    assert context.role == "io"
    context.hold("first")
    context.hold("second")
    context.hold(7)
    assert (context[str], context[int], context.get(str)) == ("second", 7, "second")


def test_what_it_has_not_is_said() -> None:
    context = attach_context(SimpleNamespace(), "beat")  # type: ignore[arg-type]
    assert context.get(str) is None
    with pytest.raises(LookupError, match="A beat process has no str"):
        context[str]
