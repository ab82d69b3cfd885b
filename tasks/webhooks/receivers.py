"""The state of each receiver: how many posts at once, and none for a while to one that keeps failing.

A receiver that has not answered yet gets one post at a time, and all such receivers together get no more than a share
of the room: however many of them hang, those that answer find theirs. One that answers quickly gets batches of several
posts, which go out one after the other: so the ledger is asked once for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.ledger.webhooks.outbox import Due

#: Posts of one process that are under way, those included that come later in a batch.
ROOM = 512
#: Posts of one batch.
LARGEST_BATCH = 16
#: Of these, at most so many for receivers that have not answered, or not lately.
UNPROVEN_ROOM = 384
#: Failures in a row after which a receiver is left alone.
BREAK_AFTER = 5
#: A receiver that answers is brought more when only so much is left for it.
REFILL_AT = 32
#: Receivers that are remembered though nothing is under way to them.
REMEMBERED = 4096


@dataclass(kw_only=True)
class _Batch:
    size: int
    left: int
    #: Those of which nothing was learned.
    undone: int = 0


@dataclass(kw_only=True)
class _Receiver:
    waiting: deque[Due] = field(default_factory=deque)
    #: The batch of each job with a post under way: its events go out one after the other.
    busy_jobs: dict[str, _Batch] = field(default_factory=dict)
    batches: int = 0
    #: Of the next batch. Grows with each that came through, so that a slow receiver never gets much at once.
    batch_size: int = 1
    failures: int = 0
    has_answered: bool = False
    closed_until_s: float = 0.0

    @property
    def is_unproven(self) -> bool:
        """Whether it has not answered yet, or not lately."""
        return not self.has_answered or self.failures > 0


class ReceiverLimits:
    """What waits for each receiver, and what is under way. Used by one thread alone."""

    def __init__(self, *, per_host: int, break_s: float) -> None:
        """Parameters:
        per_host: posts to one receiver at once.
        break_s: for so long a receiver that keeps failing is left alone.
        """
        self._per_host = per_host
        self._break_s = break_s
        self._receivers: dict[str, _Receiver] = {}
        self._waiting_ids: set[str] = set()
        self._under_way = 0
        self._unproven = 0

    @property
    def under_way(self) -> int:
        """Posts that have begun and not ended."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """Deliveries that wait for their turn."""
        return len(self._waiting_ids)

    def occupied(self) -> list[str]:
        """Return the receivers that enough waits for: more is not worth bringing from the ledger now."""
        return [
            receiver
            for receiver, state in self._receivers.items()
            if len(state.waiting) > (REFILL_AT if state.has_answered else 0)
        ]

    def closed_for_s(self, receiver: str, now_s: float) -> float:
        """Return seconds for which a receiver is left alone; 0 when it is not."""
        state = self._receivers.get(receiver)
        return 0.0 if state is None else max(0.0, state.closed_until_s - now_s)

    def add(self, due: Due) -> None:
        """Let a delivery wait for its turn; nothing happens if it does already."""
        if due.id in self._waiting_ids:
            return
        self._waiting_ids.add(due.id)
        self._receivers.setdefault(due.receiver, _Receiver()).waiting.append(due)

    def begin(self, now_s: float) -> list[list[Due]]:
        """Take out what may be posted now, in fair turns: batches, each for one receiver.

        All batches may go at once, and the posts of a batch one after the other. Each post is under way until `end`.
        """
        begun: list[list[Due]] = []
        found = True
        while found and self._under_way < ROOM:
            found = False
            for state in [state for state in self._receivers.values() if state.waiting]:
                batch = self._next(state, now_s)
                if batch:
                    found = True
                    begun.append(batch)
                if self._under_way >= ROOM:
                    break
        return begun

    def end(self, due: Due, *, is_answered: bool | None, now_s: float) -> bool:
        """Count a post that has ended.

        Parameters:
          is_answered: whether the receiver is well; None where nothing was learned of that.
        Returns: whether the receiver is to be left alone from now on, with all that waits for it.
        """
        state = self._receivers[due.receiver]
        batch = state.busy_jobs.pop(due.job_id)
        batch.left -= 1
        batch.undone += int(is_answered is None)
        self._under_way -= 1
        was_unproven, is_closed = state.is_unproven, False
        if is_answered:
            state.has_answered, state.failures = True, 0
        elif is_answered is False:
            state.failures += 1
            if state.failures >= BREAK_AFTER:
                is_closed = True
                state.has_answered, state.closed_until_s = False, now_s + self._break_s
        if not batch.left:
            _end_batch(state, batch)
        self._recount(state, was_unproven=was_unproven)
        self._forget_idle()
        return is_closed

    def clear(self, receiver: str) -> None:
        """Forget what waits for a receiver: the ledger has it for later."""
        state = self._receivers.get(receiver)
        if state is not None:
            self._waiting_ids.difference_update(due.id for due in state.waiting)
            state.waiting.clear()

    def _next(self, state: _Receiver, now_s: float) -> list[Due]:
        free = (self._per_host if state.has_answered else 1) - state.batches
        if now_s < state.closed_until_s or free <= 0:
            return []
        if state.is_unproven and self._unproven >= UNPROVEN_ROOM:
            return []
        # What waits is shared out, so that no few of them queue in one batch while another is empty.
        share = -(-len(state.waiting) // free)
        most = 1 if state.is_unproven else min(state.batch_size, share, ROOM - self._under_way)
        found: dict[str, Due] = {}
        for due in state.waiting:
            if len(found) == most:
                break
            if due.job_id not in state.busy_jobs:
                found.setdefault(due.job_id, due)
        if found:
            self._take(state, list(found.values()))
        return list(found.values())

    def _take(self, state: _Receiver, dues: list[Due]) -> None:
        batch = _Batch(size=len(dues), left=len(dues))
        state.batches += 1
        for due in dues:
            state.waiting.remove(due)
            self._waiting_ids.discard(due.id)
            state.busy_jobs[due.job_id] = batch
        self._under_way += len(dues)
        self._unproven += len(dues) * int(state.is_unproven)

    def _recount(self, state: _Receiver, *, was_unproven: bool) -> None:
        """Keep the count of posts to unproven receivers true: one has ended, and the others may count otherwise now."""
        left = len(state.busy_jobs)
        self._unproven += left * int(state.is_unproven) - (left + 1) * int(was_unproven)

    def _forget_idle(self) -> None:
        if len(self._receivers) > REMEMBERED:
            for receiver in list(self._idle()):
                del self._receivers[receiver]

    def _idle(self) -> Iterator[str]:
        return (
            receiver
            for receiver, state in self._receivers.items()
            if not (state.waiting or state.busy_jobs or state.failures)
        )


def _end_batch(state: _Receiver, batch: _Batch) -> None:
    state.batches -= 1
    if batch.undone or state.is_unproven:
        state.batch_size = max(1, min(state.batch_size, batch.size - batch.undone))
    elif batch.size == state.batch_size:
        state.batch_size = min(LARGEST_BATCH, 2 * batch.size)
