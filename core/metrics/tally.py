"""Amounts by sample: what one transaction, or one process, has counted and not handed on yet.

A sample is one text, as the ledger keeps it: the family's name, a part, and the values of its labels, between tabs. The
part is empty for a counter. A histogram has a part for each bucket, by its place, and `sum`; the buckets are counted
each by itself here, and add up only where they are shown.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Mapping

from core.metrics.family import Family

#: The part of a histogram that is the sum of all that was seen.
SUM = "sum"
#: The longest value of a label: some come from clients.
MOST_CHARS = 64
_GAP = "\t"


class Tally:
    """Amounts by sample. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: dict[str, float] = {}

    def add(self, family: Family, *labels: str, amount: float = 1) -> None:
        """Count something."""
        self._add({sample_of(family, "", labels): amount})

    def observe(self, family: Family, value: float, *labels: str) -> None:
        """Count a value of a histogram."""
        place = str(bisect_left(family.buckets, value))
        self._add({sample_of(family, place, labels): 1, sample_of(family, SUM, labels): value})

    def put_back(self, amounts: Mapping[str, float]) -> None:
        """Count again what was taken and could not be handed on."""
        self._add(amounts)

    def take(self) -> dict[str, float]:
        """Return what was counted, and begin anew."""
        with self._lock:
            taken = self._amounts
            self._amounts = {}
        return taken

    def __bool__(self) -> bool:
        return bool(self._amounts)

    def _add(self, amounts: Mapping[str, float]) -> None:
        with self._lock:
            for sample, amount in amounts.items():
                self._amounts[sample] = self._amounts.get(sample, 0) + amount

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._amounts = {}


def sample_of(family: Family, part: str, labels: tuple[str, ...]) -> str:
    """Return a sample's text."""
    assert len(labels) == len(family.labels), f"{family.name} has the labels {family.labels}"
    return _GAP.join((family.name, part, *map(_plain, labels)))


def parts_of(sample: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the family's name, the part and the values of the labels of a sample."""
    name, part, *labels = sample.split(_GAP)
    return name, part, tuple(labels)


def _plain(label: str) -> str:
    return label[:MOST_CHARS] if label.isprintable() else "".join(filter(str.isprintable, label))[:MOST_CHARS]


#: What this process has counted. One for each process, for the ledger and the broker are reached from all over it.
process_tally = Tally()
# What the parent counted the parent reports; and its lock may be held by a thread that a child does not have.
os.register_at_fork(after_in_child=process_tally._reset)
