"""What is refused of a request: the first of it, for a submission, or all of it, for a dry run."""

from __future__ import annotations

from contextlib import nullcontext
from types import TracebackType
from typing import Final, Protocol

from core.errors import ComfylineError, LimitReached, NoHealthyInstance, QueueFull, RequestError

#: What keeps a request from becoming a job; of all other errors nobody can tell whether they would.
REFUSALS: Final = (RequestError, QueueFull, LimitReached, NoHealthyInstance)


class Refusals(Protocol):
    """Each check of a request stands in a block of its own with this: what it refuses is raised, or kept."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


#: Raises what is refused.
AT_ONCE: Final[Refusals] = nullcontext()


class KeptRefusals:
    """Keeps what is refused, in its order: the first of it is what a submission would be answered."""

    def __init__(self) -> None:
        self.errors: list[ComfylineError] = []

    def __enter__(self) -> KeptRefusals:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        if not isinstance(error, REFUSALS):
            return False
        # What two places of a graph have in common is told once.
        if (type(error), error.args) not in [(type(each), each.args) for each in self.errors]:
            self.errors.append(error)
        return True
