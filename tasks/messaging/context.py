"""What the tasks, steps and commands of one process find on its Celery app."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast

from celery import Celery

Role = Literal["api", "gpu", "io", "beat", "flower"]
Held = TypeVar("Held")


class ProcessContext:
    """The role of a process, and at most one object of each class that its tasks share.

    Objects are kept by their class, so that this module knows none of the rooms they come from.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self._held: dict[type[Any], Any] = {}

    def hold(self, thing: object) -> None:
        """Keep an object for this process, in place of an earlier one of its class."""
        self._held[type(thing)] = thing

    def get(self, kind: type[Held]) -> Held | None:
        """Return the process's object of a class, or None in a process that has none."""
        return cast("Held | None", self._held.get(kind))

    def __getitem__(self, kind: type[Held]) -> Held:
        """Return the process's object of a class. Raises LookupError in a process that has none."""
        if (found := self.get(kind)) is None:
            raise LookupError(f"A {self.role} process has no {kind.__name__}.")
        return found


def attach_context(app: Celery, role: Role) -> ProcessContext:
    """Give an app its context."""
    context = ProcessContext(role)
    app.process_context = context  # type: ignore[attr-defined]
    return context


def context_of(app: Any) -> ProcessContext:
    """Return the context of an app that `make_app` made."""
    return cast(ProcessContext, app.process_context)
