"""Node classes of the past, and what a server puts in their place before it checks a graph (0.14 and newer)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Of an output of which nothing is known.
_ANY_TYPE = "*"


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What a server does with one class that it lacks. Of several possible ones it takes the first."""

    new_class: str
    #: Which output of the new class stands for one of the old; those not named keep their place.
    slots: Mapping[int, int] = field(default_factory=dict)
    #: All that the server says of the old class, as it says it.
    told: tuple[Mapping[str, Any], ...] = ()

    def outputs(self, of_new: object) -> Any:
        """Return the types of the old class's outputs, given those of the new one as `/object_info` has them."""
        if not isinstance(of_new, list) or not self.slots:
            return of_new
        types = dict(enumerate(of_new))
        return [
            types.get(self.slots.get(slot, slot), _ANY_TYPE) for slot in range(max(len(of_new), 1 + max(self.slots)))
        ]


def parse_replacements(answer: Mapping[str, Any]) -> dict[str, Replacement]:
    """Read `{class: [{"new_node_id", "output_mapping", ...}]}`; what is not of that shape is left out."""
    found = {}
    for old, several in answer.items():
        told = tuple(each for each in several if isinstance(each, dict)) if isinstance(several, list) else ()
        if told and isinstance(told[0].get("new_node_id"), str):
            slots = _slots(told[0].get("output_mapping"))
            found[old] = Replacement(new_class=told[0]["new_node_id"], slots=slots, told=told)
    return found


def _slots(mapping: object) -> dict[int, int]:
    moves = [each for each in mapping if isinstance(each, dict)] if isinstance(mapping, list) else []
    pairs = [(move.get("old_idx"), move.get("new_idx")) for move in moves]
    return {old: new for old, new in pairs if isinstance(old, int) and isinstance(new, int) and old >= 0}
