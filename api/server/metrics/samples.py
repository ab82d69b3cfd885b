"""What groups of families look at and give, and how that is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from api.server.metrics.probes import Probed
from api.server.metrics.text_format import Labels, Text
from core.ledger.metrics.fleet_state import FleetState
from core.metrics.family import Family
from core.metrics.tally import parts_of


@dataclass(frozen=True, kw_only=True)
class View:
    """What there is to be told at one scrape."""

    #: None: the ledger does not answer.
    fleet: FleetState | None
    probed: Probed


class Sample(NamedTuple):
    """One number of a family that is no histogram."""

    family: Family
    labels: Labels
    value: float


class Group(Protocol):
    """A module of families."""

    FAMILIES: Sequence[Family]

    def samples(self, view: View) -> Iterable[Sample]:
        """Yield the samples of its families, those of one family in any order."""


def write_samples(text: Text, families: Sequence[Family], samples: Iterable[Sample]) -> None:
    """Write each family that has samples, in the order of the families."""
    found: dict[str, list[tuple[Labels, float]]] = {family.name: [] for family in families}
    for family, labels, value in samples:
        found[family.name].append((labels, value))
    for family in families:
        if found[family.name]:
            text.write(family, found[family.name])


def write_sums(text: Text, families: Mapping[str, Family], sums: Mapping[str, float]) -> None:
    """Write each family that has sums. What a newer version counts is left out."""
    found: dict[str, dict[Labels, dict[str, float]]] = {name: {} for name in families}
    for sample, amount in sums.items():
        name, part, labels = parts_of(sample)
        family = families.get(name)
        if family is not None and len(labels) == len(family.labels):
            found[name].setdefault(labels, {})[part] = amount
    for name, family in families.items():
        for labels in family.zeros:
            found[name].setdefault(labels, {"": 0.0})
        if found[name] and family.kind == "histogram":
            text.write_histogram(family, found[name])
        elif found[name]:
            text.write(family, ((labels, parts.get("", 0.0)) for labels, parts in found[name].items()))
