"""Group commit: what several callers of one process want written at the same time goes into one transaction.

While one transaction is under way, those who come wait for it, and then the first of them writes for all. So a caller
who is alone waits for nobody, and of many each pays a share of what a transaction costs: its begin, its commit, and the
rows that all of them change, which every transaction keeps locked until its own commit is on disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from core.errors import LedgerUnavailable

Item = TypeVar("Item")
Written = TypeVar("Written")

#: Items that one transaction takes, and the weight from which on it takes no further one.
MOST_ITEMS, MOST_WEIGHT = 32, 2_000_000


@dataclass(eq=False)
class _Wish(Generic[Item, Written]):
    """One caller's item, and what became of it."""

    item: Item
    written: Written | None = None
    error: Exception | None = None

    @property
    def is_settled(self) -> bool:
        return self.written is not None or self.error is not None


class GroupCommit(Generic[Item, Written]):
    """Writes items for the callers of one process; each has its answer after the commit of its own item.

    Parameters:
      write_all: writes items in one transaction, all of them or none; returns one result for each, in their order.
      weight_of: how much an item adds to its transaction, where one is `MOST_WEIGHT`.
    """

    def __init__(
        self, write_all: Callable[[Sequence[Item]], Sequence[Written]], *, weight_of: Callable[[Item], int]
    ) -> None:
        self._write_all = write_all
        self._weight_of = weight_of
        self._waiting: deque[_Wish[Item, Written]] = deque()
        self._one_at_a_time = threading.Lock()

    def write(self, item: Item) -> Written:
        """Write an item, with those of others that wait; raises what its own writing raises.

        Raises:
          LedgerUnavailable: it is not written, or (rarely) the answer was lost on its way.
        """
        wish: _Wish[Item, Written] = _Wish(item)
        self._waiting.append(wish)
        try:
            with self._one_at_a_time:
                while not wish.is_settled:
                    self._settle(self._next_group())
        except BaseException:
            # Interrupted before its turn came: nobody is to write it any more.
            with suppress(ValueError):
                self._waiting.remove(wish)
            raise
        if wish.error is not None:
            raise wish.error
        assert wish.written is not None
        return wish.written

    def _next_group(self) -> list[_Wish[Item, Written]]:
        group: list[_Wish[Item, Written]] = []
        weight = 0
        while self._waiting and len(group) < MOST_ITEMS and weight < MOST_WEIGHT:
            group.append(self._waiting.popleft())
            weight += self._weight_of(group[-1].item)
        return group

    def _settle(self, group: Sequence[_Wish[Item, Written]]) -> None:
        try:
            for wish, written in zip(group, self._write_all([wish.item for wish in group]), strict=True):
                wish.written = written
        except LedgerUnavailable as exc:
            for wish in group:
                wish.error = LedgerUnavailable(exc.message)
        except Exception as exc:  # noqa: BLE001 - it is raised to whom it is meant for
            if len(group) == 1:
                # Its own caller raises it.
                group[0].error = exc
                return
            # One of them cannot be written, and so none was: each by itself, for it is to hurt no other.
            for wish in group:
                self._settle([wish])
        finally:
            # Only where the writer was interrupted.
            for wish in group:
                if not wish.is_settled:
                    wish.error = LedgerUnavailable("The ledger does not answer.")
