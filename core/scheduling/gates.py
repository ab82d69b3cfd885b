"""Gates let only so many jobs of a tenant, or of a batch, run at once: their free slots while jobs begin and end."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

GateKind: TypeAlias = Literal["tenant", "batch"]


class GateKey(NamedTuple):
    """Names a gate."""

    kind: GateKind
    #: As lines call the tenant, or the id of the batch.
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What the jobs of some lines go through to begin."""

    key: GateKey
    #: How many may run at once; None: any number.
    most: int | None = None
    #: How many run, those on deck included.
    running: int = 0
    is_paused: bool = False

    @property
    def free(self) -> float:
        """How many more may begin now; infinite where any number may."""
        if self.is_paused:
            return 0
        return math.inf if self.most is None else max(0, self.most - self.running)

    @property
    def is_shut(self) -> bool:
        """Whether it lets nobody through, whoever ends."""
        return self.is_paused or self.most == 0


def closed_gate(gates: Iterable[Gate]) -> Gate | None:
    """Return the gate that keeps jobs waiting, one that is shut before one that is full; None: all are open."""
    return min((gate for gate in gates if not gate.free), key=lambda gate: not gate.is_shut, default=None)


class Slots:
    """The free slots of gates while jobs begin and end.

    Parameters:
      gates_of: the gates of lines by their ids; those without any may be left out.
    """

    def __init__(self, gates_of: Mapping[int, Sequence[Gate]]) -> None:
        self._free = {gate.key: gate.free for gates in gates_of.values() for gate in gates}
        self._keys_of = {line_id: tuple(gate.key for gate in gates) for line_id, gates in gates_of.items()}
        self._lines_of: dict[GateKey, list[int]] = {}
        #: Of paused gates, which stay as they are.
        self._shut = {gate.key for gates in gates_of.values() for gate in gates if gate.is_shut}
        #: Jobs beyond what a gate lets through: it was wider when they began.
        self._beyond = {
            gate.key: gate.running - gate.most
            for gates in gates_of.values()
            for gate in gates
            if gate.most is not None and gate.running > gate.most
        }
        for line_id, keys in self._keys_of.items():
            for key in keys:
                self._lines_of.setdefault(key, []).append(line_id)

    def is_open(self, line_id: int) -> bool:
        """Return whether a job of a line may begin."""
        return all(self._free[key] > 0 for key in self._keys_of.get(line_id, ()))

    def keys_of(self, line_id: int) -> tuple[GateKey, ...]:
        """Return the gates of a line."""
        return self._keys_of.get(line_id, ())

    def lines_of(self, keys: Iterable[GateKey]) -> frozenset[int]:
        """Return the lines behind any of these gates."""
        return frozenset(line_id for key in keys for line_id in self._lines_of.get(key, ()))

    def take(self, line_id: int) -> Collection[int]:
        """Let a job of a line begin; returns the lines that are closed since."""
        full: list[GateKey] = []
        for key in self._keys_of.get(line_id, ()):
            self._free[key] -= 1
            if self._free[key] <= 0:
                full.append(key)
        return self.lines_of(full)

    def give_back(self, keys: Iterable[GateKey]) -> Collection[int]:
        """Let a job end that went through these gates; returns the lines that are open since."""
        opened: list[GateKey] = []
        for key in keys:
            if key not in self._free or key in self._shut:
                continue
            if self._beyond.get(key):
                self._beyond[key] -= 1
                continue
            self._free[key] += 1
            if self._free[key] == 1:
                opened.append(key)
        return frozenset(line_id for line_id in self.lines_of(opened) if self.is_open(line_id))
