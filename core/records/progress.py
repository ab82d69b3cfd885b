"""How far a job is: one point of its run, as ComfyUI's events, the ledger and the streams know it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from core.texts.stored_json import known_fields


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A point in a run. `value` is the part of its work that is done, 0..1; what the cache serves is no work."""

    value: float = 0.0
    nodes_done: int = 0
    nodes_total: int = 0
    #: Id in the submitted graph, also while a node inside an expansion runs.
    current_node: str | None = None
    current_node_class: str | None = None
    #: Position inside the current node (sampler steps, say); None for nodes that do not count.
    step: int | None = None
    steps: int | None = None
    #: Seconds of work left, when nodes like all of these have run on this instance before.
    remaining_s: float | None = None
    #: Why nothing moves, in plain English: input files are on their way, or, of a job whose GPU work is done, its files
    #: are not stored yet; and of the latter when that was found.
    note: str | None = None
    noted_at_ms: int = 0

    @classmethod
    def from_json(cls, value: Any) -> Progress:
        """Read what `to_json` made, of this version or another one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return all fields, by their names; of notes only where there is one."""
        fields = asdict(self)
        if self.note is None:
            del fields["note"], fields["noted_at_ms"]
        return fields


def generated(progress: Progress) -> Progress:
    """Return how far a job is whose GPU work is done."""
    # A note without a time is of the files that it began with.
    note = progress.note if progress.noted_at_ms else None
    return replace(progress, value=1.0, nodes_done=progress.nodes_total, note=note)
