"""How many posts a receiver gets at once, who waits, and when a receiver is left alone."""

from __future__ import annotations

from core.ledger.webhooks.outbox import Due
from tasks.webhooks.receivers import BREAK_AFTER, LARGEST_BATCH, REMEMBERED, ROOM, UNPROVEN_ROOM, ReceiverLimits

BREAK_S = 30.0


def due(receiver: str, number: int, job: int | None = None) -> Due:
    """A delivery, of a job of its own unless another is named."""
    return Due(id=f"{receiver}-{number}", job_id=f"{receiver}-{number if job is None else job}", receiver=receiver)


def begin(limits: ReceiverLimits, now_s: float = 0.0) -> list[Due]:
    """What begins, of all batches."""
    return [begun for batch in limits.begin(now_s) for begun in batch]


def add(limits: ReceiverLimits, receiver: str, count: int) -> None:
    """Let so many deliveries wait for a receiver."""
    for number in range(count):
        limits.add(due(receiver, number))


def answer(limits: ReceiverLimits, receiver: str) -> None:
    """Make a receiver known as one that answers."""
    limits.add(due(receiver, -1))
    (begun,) = begin(limits)
    limits.end(begun, is_answered=True, now_s=0.0)


def test_a_receiver_gets_one_post_until_it_has_answered_and_then_four_hands() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    add(limits, "a", 20)
    (first,) = begin(limits)
    assert begin(limits) == []
    limits.end(first, is_answered=True, now_s=0.0)
    batches = limits.begin(0.0)
    assert [[found.id for found in batch] for batch in batches] == [
        ["a-1", "a-2"],
        ["a-3", "a-4"],
        ["a-5", "a-6"],
        ["a-7", "a-8"],
    ]
    assert (limits.under_way, limits.waiting) == (8, 11)
    limits.end(batches[0][0], is_answered=True, now_s=0.0)
    assert begin(limits) == [], "a batch ends with its last post"


def test_hands_grow_while_they_come_through_and_shrink_to_what_did() -> None:
    limits = ReceiverLimits(per_host=1, break_s=BREAK_S)
    add(limits, "a", 100)
    sizes = []
    for _ in range(6):
        (batch,) = limits.begin(0.0)
        sizes.append(len(batch))
        for found in batch:
            limits.end(found, is_answered=True, now_s=0.0)
    (batch,) = limits.begin(0.0)
    for number, found in enumerate(batch):
        limits.end(found, is_answered=True if number < 3 else None, now_s=0.0)
    (short,) = limits.begin(0.0)
    assert sizes == [1, 2, 4, 8, LARGEST_BATCH, LARGEST_BATCH]
    assert len(short) == 3


def test_a_few_posts_are_shared_out() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    for _ in range(5):
        answer(limits, "a")
    add(limits, "a", 6)
    assert [len(batch) for batch in limits.begin(0.0)] == [2, 2, 1, 1]


def test_what_waits_already_is_not_added_again() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    add(limits, "a", 2)
    add(limits, "a", 2)
    assert limits.waiting == 2


def test_events_of_one_job_go_out_one_after_the_other() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    answer(limits, "a")
    for number in range(3):
        limits.add(due("a", number, job=7))
    limits.add(due("a", 3))
    begun = begin(limits)
    assert [found.id for found in begun] == ["a-0", "a-3"]
    limits.end(begun[0], is_answered=True, now_s=0.0)
    assert [found.id for found in begin(limits)] == ["a-1"]


def test_a_receiver_that_fails_five_times_is_left_alone_and_then_tried_once() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    answer(limits, "a")
    add(limits, "a", 20)
    closed: list[bool] = []
    while not any(closed):
        closed += [limits.end(begun, is_answered=False, now_s=10.0) for begun in begin(limits, 10.0)]
    assert closed.index(True) == BREAK_AFTER - 1
    assert limits.closed_for_s("a", 10.0) == BREAK_S
    assert begin(limits, 10.0 + BREAK_S - 0.1) == []
    (probe,) = begin(limits, 10.0 + BREAK_S)
    assert limits.end(probe, is_answered=False, now_s=50.0), "one more failure is enough now"
    (probe,) = begin(limits, 50.0 + BREAK_S)
    assert not limits.end(probe, is_answered=True, now_s=90.0)
    assert len(limits.begin(90.0)) == 4


def test_what_was_cleared_may_be_added_again() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    add(limits, "a", 3)
    limits.clear("a")
    limits.clear("never heard of")
    assert (limits.waiting, begin(limits)) == (0, [])
    add(limits, "a", 3)
    assert limits.waiting == 3


def test_however_many_receivers_hang_those_that_answer_find_room() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    answer(limits, "good")
    for number in range(2 * ROOM):
        add(limits, f"hanging-{number}", 2)
    assert len(begin(limits)) == UNPROVEN_ROOM
    add(limits, "good", 9)
    batches = limits.begin(0.0)
    assert {found.receiver for batch in batches for found in batch} == {"good"}
    assert len(batches) == 4
    assert "good" not in limits.occupied()


def test_the_share_of_the_unproven_is_counted_right_whatever_happens() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    for turn in range(6):
        for number in range(50):
            add(limits, f"{number}", 6)
        for begun in begin(limits, turn * 100.0):
            verdict = {0: True, 1: False, 2: None}[(int(begun.receiver) + turn) % 3]
            limits.end(begun, is_answered=verdict, now_s=turn * 100.0)
    for number in range(50):
        limits.clear(f"{number}")
    assert limits.under_way == 0
    for number in range(2 * ROOM):
        add(limits, f"new-{number}", 1)
    assert len(begin(limits, 1e6)) == UNPROVEN_ROOM


def test_receivers_are_not_remembered_for_ever() -> None:
    limits = ReceiverLimits(per_host=4, break_s=BREAK_S)
    for number in range(REMEMBERED + 1):
        answer(limits, f"{number}")
    answer(limits, "the last")
    # Forgotten means: unknown again, and so one post at a time.
    add(limits, "0", 4)
    assert len(begin(limits)) == 1
