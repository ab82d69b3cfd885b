"""What is told of jobs whose model files are on their way: which file, how far, and how long it takes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from core.ledger.models.copies import read_copies
from core.ledger.scheduling.lines import WaitingLine
from core.records.model_file import ModelCopy
from core.scheduling.picture import Fetching
from core.scheduling.reasons import about, named


def read_fetching(connection: Connection, waiting: Iterable[WaitingLine]) -> dict[int, Fetching]:
    """Return how the files come along of each line that waits for some, by its id."""
    held_up = [line for line in waiting if line.kind.awaits_files]
    if not held_up:
        return {}
    copies: dict[str, list[ModelCopy]] = {}
    for copy in read_copies(connection):
        copies.setdefault(copy.name, []).append(copy)
    return {line.id: fetching_of(line.kind.files, copies) for line in held_up}


def fetching_of(files: Iterable[str], copies: Mapping[str, Iterable[ModelCopy]]) -> Fetching:
    """Return how the files of a job come along. What is wrong with a source is for operators, and not told here.

    Parameters:
      copies: what hosts have, by what graphs call the files.
    """
    found = [(name, list(copies.get(name, ()))) for name in files]
    under_way = [(name, each) for name, some in found for each in some if each.state == "fetching"]
    if under_way:
        name, furthest = max(under_way, key=lambda pair: pair[1].done_bytes)
        left_s = furthest.left_s
        percent = 100 * furthest.done_bytes // furthest.size_bytes if furthest.size_bytes else None
        how_far = "" if percent is None else f": {percent} %"
        when = "" if left_s is None else f", {about(left_s)}"
        others = len({each for each, _ in under_way}) - 1
        beside = f" and {others} more" if others else ""
        return Fetching(sentence=f"Fetching {name}{beside}{how_far}{when}.", left_s=left_s)
    failed = [name for name, some in found if any(each.state == "failed" for each in some)]
    if failed:
        return Fetching(sentence=f"Fetching {named(failed)} failed, and is tried again; its operator can see why.")
    absent = [name for name, some in found if not some]
    if absent:
        return Fetching(sentence=f"Waits for {named(absent)} to be fetched.")
    return Fetching(sentence=f"Waits until a GPU lists {named([name for name, _ in found])}.")
