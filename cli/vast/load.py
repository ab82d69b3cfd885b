"""What a worker has taken, does, has done and refused, in the platform's units of work; and its report of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cli.vast.place import Place

#: Seconds that a request is taken to last on the platform's GPU of reference if it does not say, and what a second of
#: that is in units of work.
USUAL_S: Final = 46.0
UNITS_PER_S: Final = 200 / 23.0
#: Requests that ended, of which the platform was not told yet; more are forgotten, the oldest first.
UNTOLD = 10_000
#: The release of the platform's SDK whose protocol this is.
PROTOCOL_VERSION = "0.3.0"


def workload_of(payload: Mapping[str, Any]) -> float:
    """Return the units of work of a request, by its `expected_time` in seconds."""
    said = payload.get("expected_time")
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not math.isfinite(said) or said <= 0:
        return USUAL_S * UNITS_PER_S
    return float(said) * UNITS_PER_S


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Taken:
    """A request that was let in, or refused for lack of time."""

    request_idx: int
    reqnum: int
    workload: float


class Load:
    """The counts of one worker. Used by one event loop."""

    def __init__(self) -> None:
        #: Units of work in a second, as the benchmark found; 0 until then.
        self.max_perf = 0.0
        #: How long it took until the first request could be served; None until then.
        self.load_time_s: float | None = None
        #: What keeps it from serving.
        self.error = ""
        #: Whether there is something that was not reported.
        self.has_news = False
        self._working: dict[int, Taken] = {}
        self._received = 0
        self._ended: list[tuple[int, bool]] = []
        self._since = Since()

    @property
    def work(self) -> float:
        """Units of work under way."""
        return sum(taken.workload for taken in self._working.values())

    @property
    def wait_s(self) -> float:
        """How long the next request would wait, about."""
        return self.work / self.max_perf if self.max_perf else 0.0

    def begin(self, taken: Taken) -> None:
        """Count a request that was let in."""
        self._received += 1
        self._working[id(taken)] = taken
        self._since.received += taken.workload
        self.has_news = True

    def end(self, taken: Taken, *, is_well: bool, was_left: bool = False) -> None:
        """Count its end. Parameters: was_left - its client hung up."""
        self._working.pop(id(taken), None)
        if was_left:
            self._since.left += taken.workload
        elif is_well:
            self._since.served += taken.workload
        # Nobody has to be asked again for what its client did not wait for.
        self._note_end(taken, is_well or was_left)

    def refuse(self, taken: Taken) -> None:
        """Count a request that was not let in."""
        self._received += 1
        self._since.refused += taken.workload
        self._note_end(taken, False)

    def status(self, place: Place, *, disk_gb: float) -> dict[str, Any]:
        """Return the report. Parameters: disk_gb - what has come onto the disk since the report before."""
        return {
            "id": place.id,
            "mtoken": place.token,
            "version": PROTOCOL_VERSION,
            "loadtime": self.load_time_s or 0.0,
            "new_load": max(0.0, self._since.received - self._since.left),
            "cur_load": self.work,
            "rej_load": self._since.refused,
            "max_perf": self.max_perf,
            "cur_perf": self._since.served,
            "error_msg": self.error,
            "num_requests_working": len(self._working),
            # The platform spells it so.
            "num_requests_recieved": self._received,
            "additional_disk_usage": disk_gb,
            "working_request_idxs": [taken.request_idx for taken in self._working.values()],
            "cur_capacity": 0,
            "max_capacity": 0,
            "url": place.url,
        }

    def begin_report(self) -> Since:
        """Begin anew what is counted from one report to the next; returns what was counted."""
        counted, self._since = self._since, Since()
        self.has_news = False
        return counted

    def not_reported(self, counted: Since) -> None:
        """Count on what a report told of that nobody took."""
        self._since = counted + self._since
        self.has_news = True

    def ended(self) -> list[tuple[int, bool]]:
        """Return `(request_idx, is_well)` of what has ended and was not told."""
        return list(self._ended)

    def told(self, count: int) -> None:
        """Forget the first of what has ended: the platform knows."""
        del self._ended[:count]

    def _note_end(self, taken: Taken, is_well: bool) -> None:
        self._ended.append((taken.request_idx, is_well))
        del self._ended[:-UNTOLD]
        self.has_news = True


@dataclass(slots=True)
class Since:
    """Units of work since the last report."""

    received: float = 0.0
    left: float = 0.0
    served: float = 0.0
    refused: float = 0.0

    def __add__(self, other: Since) -> Since:
        return Since(
            received=self.received + other.received,
            left=self.left + other.left,
            served=self.served + other.served,
            refused=self.refused + other.refused,
        )
