"""One lane for each receiver: how many posts at once, and none for a while to one that keeps failing.

A receiver that has not answered yet gets one post at a time, and all such receivers together get no more than a share
of the room: however many of them hang, those that answer find theirs. One that answers quickly gets hands of several
posts, which go out one after the other: so the ledger is asked once for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.ledger.webhooks.outbox import Due

#: Posts of one process that are under way, those included that come later in a hand.
ROOM = 512
#: Posts of one hand.
HAND = 16
#: Of these, at most so many for receivers that have not answered, or not lately.
DOUBTFUL_ROOM = 384
#: Failures in a row after which a receiver is left alone.
BREAK_AFTER = 5
#: A receiver that answers is brought more when only so much is left for it.
REFILL_AT = 32
#: Receivers that are remembered though nothing is under way to them.
REMEMBERED = 4096


@dataclass(kw_only=True)
class _Hand:
    size: int
    left: int
    #: Those of which nothing was learned.
    undone: int = 0


@dataclass(kw_only=True)
class _Lane:
    waiting: deque[Due] = field(default_factory=deque)
    #: The hand of each job with a post under way: its events go out one after the other.
    busy_jobs: dict[str, _Hand] = field(default_factory=dict)
    hands: int = 0
    #: Of the next hand. Grows with each that came through, so that a slow receiver never gets much at once.
    hand_size: int = 1
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

    def begin(self, now_s: float) -> list[list[Due]]:
        """Take out what may be posted now, in fair turns: hands, each for one receiver.

        All hands may go at once, and the posts of a hand one after the other. Each post is under way until `end`.
        """
        begun: list[list[Due]] = []
        found = True
        while found and self._under_way < ROOM:
            found = False
            for lane in [lane for lane in self._lanes.values() if lane.waiting]:
                hand = self._next(lane, now_s)
                if hand:
                    found = True
                    begun.append(hand)
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
        hand = lane.busy_jobs.pop(due.job_id)
        hand.left -= 1
        hand.undone += int(is_answered is None)
        self._under_way -= 1
        was_doubtful, is_closed = lane.is_doubtful, False
        if is_answered:
            lane.has_answered, lane.failures = True, 0
        elif is_answered is False:
            lane.failures += 1
            if lane.failures >= BREAK_AFTER:
                is_closed = True
                lane.has_answered, lane.closed_until_s = False, now_s + self._break_s
        if not hand.left:
            _end_hand(lane, hand)
        self._recount(lane, was_doubtful=was_doubtful)
        self._forget_idle()
        return is_closed

    def clear(self, receiver: str) -> None:
        """Nothing waits for this receiver any more: the ledger has it for later."""
        lane = self._lanes.get(receiver)
        if lane is not None:
            self._waiting_ids.difference_update(due.id for due in lane.waiting)
            lane.waiting.clear()

    def _next(self, lane: _Lane, now_s: float) -> list[Due]:
        free = (self._per_host if lane.has_answered else 1) - lane.hands
        if now_s < lane.closed_until_s or free <= 0:
            return []
        if lane.is_doubtful and self._doubtful >= DOUBTFUL_ROOM:
            return []
        # What waits is shared out, so that no few of them queue in one hand while another is empty.
        share = -(-len(lane.waiting) // free)
        most = 1 if lane.is_doubtful else min(lane.hand_size, share, ROOM - self._under_way)
        found: dict[str, Due] = {}
        for due in lane.waiting:
            if len(found) == most:
                break
            if due.job_id not in lane.busy_jobs:
                found.setdefault(due.job_id, due)
        if found:
            self._take(lane, list(found.values()))
        return list(found.values())

    def _take(self, lane: _Lane, dues: list[Due]) -> None:
        hand = _Hand(size=len(dues), left=len(dues))
        lane.hands += 1
        for due in dues:
            lane.waiting.remove(due)
            self._waiting_ids.discard(due.id)
            lane.busy_jobs[due.job_id] = hand
        self._under_way += len(dues)
        self._doubtful += len(dues) * int(lane.is_doubtful)

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


def _end_hand(lane: _Lane, hand: _Hand) -> None:
    lane.hands -= 1
    if hand.undone or lane.is_doubtful:
        lane.hand_size = max(1, min(lane.hand_size, hand.size - hand.undone))
    elif hand.size == lane.hand_size:
        lane.hand_size = min(HAND, 2 * hand.size)
