"""LedgerSlots at the ledger, and one look for many: who waits for whom, and for how long when nothing is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from api.http.ledger_slots import LedgerSlots
from api.http.time_limits import ledger_time_limit
from api.service.batched_lookup import CHUNK, Batched
from core.errors import LedgerUnavailable
from tests.waiting import PATIENCE


def test_no_more_than_the_places_are_taken_and_everybody_has_a_turn() -> None:
    slots = LedgerSlots(places=3, silence_s=10.0, longest_s=60.0)
    lock, inside, most = threading.Lock(), 0, 0

    def work(_number: int) -> None:
        nonlocal inside, most
        # Whoever has a turn has it inside, too.
        with slots.slot(), slots.slot():
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(work, range(200)))

    assert (most, inside) == (3, 0)


def test_waiting_goes_on_while_others_are_answered() -> None:
    slots = LedgerSlots(places=1, silence_s=0.3, longest_s=60.0)

    def work(_number: int) -> None:
        with slots.slot():
            time.sleep(0.05)

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(20)))

    # The last one waited for longer than a silence may last.
    assert time.monotonic() - began > 0.9


def test_nobody_waits_for_a_ledger_that_answers_no_one() -> None:
    slots = LedgerSlots(places=1, silence_s=0.3, longest_s=60.0)
    released, taken = threading.Event(), threading.Event()

    def hang() -> None:
        with suppress(LedgerUnavailable), slots.slot():
            taken.set()
            released.wait(30)
            raise LedgerUnavailable("frozen")

    holder = threading.Thread(target=hang)
    holder.start()
    assert taken.wait(10)
    with ThreadPoolExecutor(10) as pool:
        refused = [pool.submit(_tried, slots) for _ in range(10)]
        assert all(each.result(timeout=20) for each in refused)
    released.set()
    holder.join()
    # Those who left gave up their place in line, and not the turn itself.
    assert not _tried(slots)


def test_nobody_waits_for_ever_however_well_it_goes() -> None:
    slots = LedgerSlots(places=1, silence_s=0.2, longest_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(_holding, slots, 0.15) for _ in range(8)]
        results = [each.result(timeout=30) for each in tries]

    assert True in results
    assert results.count(False) >= 2


def _tried(slots: LedgerSlots) -> bool:
    """Whether this caller was sent away."""
    try:
        with slots.slot():
            return False
    except LedgerUnavailable:
        return True


def _holding(slots: LedgerSlots, seconds: float) -> bool:
    try:
        with slots.slot():
            time.sleep(seconds)
            return False
    except LedgerUnavailable:
        return True


class Ledger:
    """Answers slowly, for a while not at all."""

    def __init__(self) -> None:
        self.looks: list[int] = []
        self.may_answer = threading.Event()
        self.is_away = False

    def load(self, keys: Collection[str]) -> dict[str, str]:
        self.looks.append(len(keys))
        assert self.may_answer.wait(20)
        if self.is_away:
            raise LedgerUnavailable("away")
        return {key: key.upper() for key in keys if key != "nothing"}


def _ask_together(batched: Batched[str], ledger: Ledger, count: int) -> list[str | LedgerUnavailable | None]:
    """One caller whose look is under way, and so many others that come meanwhile."""

    def ask(key: str) -> str | LedgerUnavailable | None:
        try:
            return batched.get(key)
        except LedgerUnavailable as exc:
            return exc

    with ThreadPoolExecutor(count + 1) as pool:
        first = pool.submit(ask, "first")
        deadline = time.monotonic() + 20 * PATIENCE
        while not ledger.looks and time.monotonic() < deadline:
            time.sleep(0.01)
        others = [pool.submit(ask, f"k{number}") for number in range(count)]
        while len(batched._next.keys) % CHUNK != count % CHUNK and time.monotonic() < deadline:
            time.sleep(0.01)
        ledger.may_answer.set()
        return [each.result(timeout=30) for each in [first, *others]]


def test_those_who_come_while_a_look_is_under_way_share_the_next_one() -> None:
    ledger = Ledger()
    batched = Batched(ledger.load)

    answers = _ask_together(batched, ledger, 50)

    assert answers == ["FIRST", *(f"K{number}" for number in range(50))]
    assert ledger.looks == [1, 50]
    assert batched.get("nothing") is None


def test_a_look_is_no_larger_than_a_query_may_be() -> None:
    ledger = Ledger()
    ledger.may_answer.set()
    batched = Batched(ledger.load)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(batched.get, [f"k{number}" for number in range(1500)]))

    assert answers == [f"K{number}" for number in range(1500)]
    assert max(ledger.looks) <= CHUNK


def test_a_ledger_that_is_away_is_asked_once_for_all_who_wait() -> None:
    ledger = Ledger()
    ledger.is_away = True
    batched = Batched(ledger.load)

    answers = _ask_together(batched, ledger, 20)

    assert all(isinstance(answer, LedgerUnavailable) for answer in answers)
    assert ledger.looks == [1]
    ledger.is_away = False
    assert batched.get("later") == "LATER"


def test_whoever_has_a_turn_already_asks_alone() -> None:
    ledger = Ledger()
    ledger.may_answer.set()
    batched = Batched(ledger.load)
    with ledger_time_limit():
        assert batched.get("a") == "A"
