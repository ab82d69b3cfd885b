"""One lane for each receiver: how many posts at once, and none for a while to one that keeps failing.

A receiver that has not answered yet gets one post at a time, and all such receivers together get no more than a share
of the room: however many of them hang, those that answer find theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.ledger.outbox import Due

#: Posts of one process at once. Each is a thread that waits.
ROOM = 512
#: Of these, at most so many for receivers that have not answered, or not lately.
DOUBTFUL_ROOM = 384
#: Failures in a row after which a receiver is left alone.
BREAK_AFTER = 5
#: A receiver that answers is brought more when only so much is left for it.
REFILL_AT = 32
#: Receivers that are remembered though nothing is under way to them.
REMEMBERED = 4096


@dataclass(kw_only=True)
class _Lane:
    waiting: deque[Due] = field(default_factory=deque)
    #: Jobs with a post under way: their events go out one after the other.
    busy_jobs: set[str] = field(default_factory=set)
    failures: int = 0
    has_answered: bool = False
    closed_until_s: float = 0.0

    @property
    def is_doubtful(self) -> bool:
        return not self.has_answered or self.failures > 0


class Lanes:
    """What waits for each receiver, and what is under way. Not for more than one thread."""

    def __init__(self, *, per_host: int, break_s: float) -> None:
        """Parameters:
        per_host: posts to one receiver at once.
        break_s: for so long a receiver that keeps failing is left alone.
        """
        self._per_host = per_host
        self._break_s = break_s
        self._lanes: dict[str, _Lane] = {}
        self._waiting_ids: set[str] = set()
        self._under_way = 0
        self._doubtful = 0

    @property
    def under_way(self) -> int:
        """Posts that have begun and not ended."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """Deliveries that wait for their turn."""
        return len(self._waiting_ids)

    def occupied(self) -> list[str]:
        """Receivers that enough waits for: more is not worth bringing from the ledger now."""
        return [
            receiver
            for receiver, lane in self._lanes.items()
            if len(lane.waiting) > (REFILL_AT if lane.has_answered else 0)
        ]

    def closed_for_s(self, receiver: str, now_s: float) -> float:
        """Seconds for which a receiver is left alone; 0 when it is not."""
        lane = self._lanes.get(receiver)
        return 0.0 if lane is None else max(0.0, lane.closed_until_s - now_s)

    def add(self, due: Due) -> None:
        """Let a delivery wait for its turn; nothing happens if it does already."""
        if due.id in self._waiting_ids:
            return
        self._waiting_ids.add(due.id)
        self._lanes.setdefault(due.receiver, _Lane()).waiting.append(due)

    def begin(self, now_s: float) -> list[Due]:
        """Take out what may be posted now, in fair turns. Each counts as under way until `end`."""
        begun: list[Due] = []
        found = True
        while found and self._under_way < ROOM:
            found = False
            for lane in [lane for lane in self._lanes.values() if lane.waiting]:
                due = self._next(lane, now_s)
                if due is not None:
                    found = True
                    begun.append(due)
                if self._under_way >= ROOM:
                    break
        return begun

    def end(self, due: Due, *, is_answered: bool | None, now_s: float) -> bool:
        """A post has ended.

        Parameters:
          is_answered: whether the receiver is well; None where nothing was learned of that.
        Returns: whether the receiver is to be left alone from now on, with all that waits for it.
        """
        lane = self._lanes[due.receiver]
        lane.busy_jobs.discard(due.job_id)
        self._under_way -= 1
        was_doubtful, is_closed = lane.is_doubtful, False
        if is_answered:
            lane.has_answered, lane.failures = True, 0
        elif is_answered is False:
            lane.failures += 1
            if lane.failures >= BREAK_AFTER:
                is_closed = True
                lane.has_answered, lane.closed_until_s = False, now_s + self._break_s
        self._recount(lane, was_doubtful=was_doubtful)
        self._forget_idle()
        return is_closed

    def clear(self, receiver: str) -> None:
        """Nothing waits for this receiver any more: the ledger has it for later."""
        lane = self._lanes.get(receiver)
        if lane is not None:
            self._waiting_ids.difference_update(due.id for due in lane.waiting)
            lane.waiting.clear()

    def _next(self, lane: _Lane, now_s: float) -> Due | None:
        at_once = 1 if not lane.has_answered else self._per_host
        if now_s < lane.closed_until_s or len(lane.busy_jobs) >= at_once:
            return None
        if lane.is_doubtful and self._doubtful >= DOUBTFUL_ROOM:
            return None
        due = next((due for due in lane.waiting if due.job_id not in lane.busy_jobs), None)
        if due is None:
            return None
        lane.waiting.remove(due)
        self._waiting_ids.discard(due.id)
        lane.busy_jobs.add(due.job_id)
        self._under_way += 1
        self._doubtful += int(lane.is_doubtful)
        return due

    def _recount(self, lane: _Lane, *, was_doubtful: bool) -> None:
        """Keep the count of doubtful posts true: one has ended, and those still under way may count otherwise now."""
        left = len(lane.busy_jobs)
        self._doubtful += left * int(lane.is_doubtful) - (left + 1) * int(was_doubtful)

    def _forget_idle(self) -> None:
        if len(self._lanes) > REMEMBERED:
            for receiver in list(self._idle()):
                del self._lanes[receiver]

    def _idle(self) -> Iterator[str]:
        return (
            receiver for receiver, lane in self._lanes.items() if not (lane.waiting or lane.busy_jobs or lane.failures)
        )
