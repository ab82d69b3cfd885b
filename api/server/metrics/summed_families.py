"""Everything that is counted, from its sums in the ledger."""

from __future__ import annotations

from api.server.metrics.samples import View, write_sums
from api.server.metrics.text_format import Text
from core.metrics.counted import COUNTED

FAMILIES = tuple(COUNTED.values())


def write(text: Text, view: View) -> None:
    """Write them, where the ledger answers: what one process counted itself would be less than that."""
    if view.fleet is not None:
        write_sums(text, COUNTED, view.fleet.sums)
