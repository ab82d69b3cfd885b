"""A family of metrics: one name, what it means, and what tells its samples apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What one name means, wherever its samples come from."""

    #: As Prometheus knows it: a counter ends in `_total`, what has a unit in the unit, in base units.
    name: str
    kind: Kind
    #: One sentence.
    help: str
    #: Names of the labels, in their order, each of which has few values.
    labels: tuple[str, ...] = ()
    #: Upper bounds of a histogram, ascending, without infinity.
    buckets: tuple[float, ...] = ()
    #: Of a counter: values of its labels that are shown as 0 before the first was counted, or nobody would see it grow
    #: to 1.
    zeros: tuple[tuple[str, ...], ...] = ()


def counter(name: str, text: str, *labels: str, zeros: tuple[str, ...] = ()) -> Family:
    """Return a family whose samples only grow; of one that has one label, with the values shown as 0 at first."""
    at_first = tuple((value,) for value in zeros) if labels else ((),)
    return Family(name=name, kind="counter", help=text, labels=labels, zeros=at_first)


def gauge(name: str, text: str, *labels: str) -> Family:
    """Return a family whose samples are as they are now."""
    return Family(name=name, kind="gauge", help=text, labels=labels)


def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Family:
    """Return a family that counts what is not longer than each of some bounds."""
    return Family(name=name, kind="histogram", help=text, labels=labels, buckets=buckets)
