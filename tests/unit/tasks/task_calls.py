"""Tasks called without a broker: the function, its process's context, and the request that Celery would make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tasks.messaging.app import make_app
from tasks.messaging.context import Role, context_of
from tasks.runtime import Runtime
from tests.makers import BrokerlessRuntime


@dataclass(frozen=True, kw_only=True)
class Called:
    """How a task went."""

    result: Any
    #: Whether the tasks behind it in its chain follow.
    goes_on: bool
    #: What its log line says.
    reported: str | None


def call(
    runtime: BrokerlessRuntime,
    task: Any,
    *arguments: Any,
    role: Role = "io",
    held: Mapping[type[Any], Any] = MappingProxyType({}),
) -> Called:
    """Call a task in a process that has this runtime, and of each class in `held` that object."""
    app = make_app(runtime.settings, role)
    there: dict[type[Any], Any] = {Runtime: runtime}
    there.update(held)
    context_of(app)._held.update(there)
    task = app.tasks[task.name]
    task.push_request(chain=["the next step"], args=arguments)
    try:
        result = task.run(*arguments)
        return Called(result=result, goes_on=task.request.chain is not None, reported=task.request.get("reported"))
    finally:
        task.pop_request()
