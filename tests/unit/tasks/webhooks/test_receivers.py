"""Limits of each receiver, at their edges; `test_receiver_limits.py` tells how they work together."""

from __future__ import annotations

import pytest

from core.ledger.webhooks.outbox import Due
from tasks.webhooks import receivers
from tasks.webhooks.receivers import (
    BREAK_AFTER,
    LARGEST_BATCH,
    REFILL_AT,
    REMEMBERED,
    ROOM,
    UNPROVEN_ROOM,
    ReceiverLimits,
)


def due(receiver: str, number: int, job: str | None = None) -> Due:
    return Due(id=f"{receiver}-{number}", job_id=job or f"{receiver}-{number}", receiver=receiver)


def add(limits: ReceiverLimits, receiver: str, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        limits.add(due(receiver, number))


def end(limits: ReceiverLimits, *dues: Due, well: bool | None = True, now_s: float = 0.0) -> list[bool]:
    return [limits.end(each, is_answered=well, now_s=now_s) for each in dues]


@pytest.fixture
def limits() -> ReceiverLimits:
    return ReceiverLimits(per_host=2, break_s=30.0)


@pytest.fixture
def answering(limits: ReceiverLimits) -> ReceiverLimits:
    """`a` has answered once."""
    add(limits, "a", 1, first=1000)
    ((first,),) = limits.begin(0.0)
    end(limits, first)
    return limits


class TestOccupied:
    def test_one_that_has_not_answered_with_the_first_that_waits(self, limits: ReceiverLimits) -> None:
        assert limits.occupied() == []
        add(limits, "a", 1)
        assert limits.occupied() == ["a"]

    def test_one_that_answers_when_much_waits(self, answering: ReceiverLimits) -> None:
        add(answering, "a", REFILL_AT)
        assert answering.occupied() == []
        add(answering, "a", 1, first=REFILL_AT)
        assert answering.occupied() == ["a"]


class TestBatches:
    def test_nothing_waits_twice(self, limits: ReceiverLimits) -> None:
        add(limits, "a", 2)
        add(limits, "a", 2)
        assert limits.waiting == 2
        ((begun,),) = limits.begin(0.0)
        assert (limits.waiting, limits.under_way) == (1, 1)
        limits.add(begun)
        assert limits.waiting == 2, "what has begun may come again"

    def test_a_job_has_one_post_at_a_time(self, answering: ReceiverLimits) -> None:
        for number in range(3):
            answering.add(due("a", number, job="j"))
        ((first,),) = answering.begin(0.0)
        assert first.id == "a-0"
        assert answering.begin(0.0) == []
        end(answering, first)
        ((second,),) = answering.begin(0.0)
        assert second.id == "a-1"

    def test_what_waits_is_shared_out(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 3)
        assert [len(batch) for batch in answering.begin(0.0)] == [2, 1]

    def test_a_batch_ends_with_its_last_post(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 9)
        first, second = answering.begin(0.0)
        assert len(first) == len(second) == 2
        end(answering, first[0])
        assert answering.begin(0.0) == []
        end(answering, first[1])
        assert [len(batch) for batch in answering.begin(0.0)] == [4]

    def test_they_grow_to_the_largest(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 200)
        sizes = []
        for _ in range(5):
            batches = answering.begin(0.0)
            sizes.append([len(batch) for batch in batches])
            end(answering, *(each for batch in batches for each in batch))
        assert sizes == [[2, 2], [4, 8], [16, 16], [16, 16], [16, 16]] or sizes[-1] == [LARGEST_BATCH, LARGEST_BATCH]

    def test_they_shrink_to_what_was_done(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 100)
        first, second = answering.begin(0.0)
        end(answering, *second)
        (four,) = answering.begin(0.0)
        assert len(four) == 4
        end(answering, four[0])
        end(answering, *four[1:], well=None)
        end(answering, *first, well=None)
        assert [len(batch) for batch in answering.begin(0.0)] == [1, 1]

    def test_room_ends_somewhere(self, limits: ReceiverLimits, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receivers, "ROOM", 3)
        for number in range(5):
            add(limits, f"r{number}", 1)
        begun = [each for batch in limits.begin(0.0) for each in batch]
        assert (len(begun), limits.under_way, limits.waiting) == (3, 3, 2)
        assert limits.begin(0.0) == []
        end(limits, begun[0])
        assert len(limits.begin(0.0)) == 1


class TestUnproven:
    def test_unproven_receivers_share_a_part_of_the_room(
        self, limits: ReceiverLimits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receivers, "UNPROVEN_ROOM", 2)
        for number in range(4):
            add(limits, f"r{number}", 2)
        first, second = (each for batch in limits.begin(0.0) for each in batch)
        assert limits.begin(0.0) == []
        end(limits, first)
        begun = [each.receiver for batch in limits.begin(0.0) for each in batch]
        assert begun == ["r0", "r2"], "one that has answered is unproven no more"
        end(limits, second, well=False)
        assert [each.receiver for batch in limits.begin(0.0) for each in batch] == ["r1"]

    def test_one_failure_makes_it_unproven_again(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 9)
        (one, two), (three, four) = answering.begin(0.0)
        end(answering, one, two, three, four, well=False)
        assert [len(batch) for batch in answering.begin(0.0)] == [1, 1]
        assert answering._unproven == 2

    def test_the_count_of_unproven_posts_stays_true(self, answering: ReceiverLimits) -> None:
        add(answering, "a", 9)
        (one, two), (three, four) = answering.begin(0.0)
        assert answering._unproven == 0
        end(answering, one, well=False)
        assert answering._unproven == 3
        end(answering, two, well=None)
        assert answering._unproven == 2
        end(answering, three)
        assert answering._unproven == 0
        end(answering, four)
        assert answering._unproven == 0


class TestBreak:
    def fail(self, limits: ReceiverLimits, now_s: float) -> bool:
        ((begun,),) = limits.begin(now_s)
        return end(limits, begun, well=False, now_s=now_s)[0]

    def test_one_that_keeps_failing_is_left_alone(self, limits: ReceiverLimits) -> None:
        add(limits, "a", 9)
        assert [self.fail(limits, 100.0) for _ in range(BREAK_AFTER)] == [False] * 4 + [True]
        assert limits.closed_for_s("a", 100.0) == 30.0
        assert limits.closed_for_s("a", 131.0) == 0.0
        assert limits.closed_for_s("b", 100.0) == 0.0
        assert limits.begin(129.9) == []
        assert len(limits.begin(130.0)) == 1

    def test_only_failures_in_a_row_count(self, limits: ReceiverLimits) -> None:
        add(limits, "a", 20)
        for _ in range(BREAK_AFTER - 1):
            self.fail(limits, 0.0)
        ((begun,),) = limits.begin(0.0)
        end(limits, begun)
        batches = limits.begin(0.0)
        closed = end(limits, *(each for batch in batches for each in batch), well=False)
        assert not any(closed[: BREAK_AFTER - 1])

    def test_what_was_not_learned_counts_neither_way(self, limits: ReceiverLimits) -> None:
        add(limits, "a", 9)
        for _ in range(BREAK_AFTER + 1):
            ((begun,),) = limits.begin(0.0)
            assert end(limits, begun, well=None) == [False]

    def test_what_waits_for_it_is_put_off(self, limits: ReceiverLimits) -> None:
        add(limits, "a", 3)
        add(limits, "b", 1)
        limits.clear("a")
        limits.clear("nobody")
        assert limits.waiting == 1
        assert [each.receiver for batch in limits.begin(0.0) for each in batch] == ["b"]
        add(limits, "a", 1)
        assert limits.waiting == 1, "it may wait again"


class TestMemory:
    def test_idle_receivers_are_forgotten_when_there_are_too_many(
        self, limits: ReceiverLimits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receivers, "REMEMBERED", 3)
        begun: dict[str, Due] = {}
        for name in ("idle", "failed", "waits"):
            add(limits, name, 2 if name == "waits" else 1)
            ((begun[name],),) = limits.begin(0.0)
            end(limits, begun[name], well=name != "failed")
            assert len(limits._receivers) == len(begun)
        add(limits, "busy", 1)
        add(limits, "new", 1)
        busy = [each for batch in limits.begin(0.0) for each in batch]
        end(limits, next(each for each in busy if each.receiver == "new"))
        assert set(limits._receivers) == {"failed", "waits", "busy"}


def test_limits_are_what_was_measured() -> None:
    assert (ROOM, LARGEST_BATCH, UNPROVEN_ROOM, BREAK_AFTER, REFILL_AT, REMEMBERED) == (512, 16, 384, 5, 32, 4096)
