"""How long this process waits for its bucket: as long as requests take, unless it has said how to tell when to stop.

A server that is slow and one that is frozen look alike to whoever waits for its answer. A process whose own clients
wait has the bucket asked something else meanwhile, and gives up what it waits for when that is not answered either.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

#: Ends what it is entered for, by BucketFault, when the bucket is away.
Limit = Callable[[], AbstractContextManager[object]]

_limit: Limit = nullcontext


def wait_within(limit: Limit) -> None:
    """Have all that this process asks of its bucket done within such a limit, from now on."""
    global _limit
    _limit = limit


def limited() -> AbstractContextManager[object]:
    """Return the limit for one thing that is asked of the bucket."""
    return _limit()
