"""When several jobs are claimed ahead, and by whom; one on deck is a matter of the runner's tests."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any, cast

import pytest

from core.errors import LedgerUnavailable
from core.ledger.claims import Claims
from tasks.runner.claimed import look_ahead as look_ahead_module
from tasks.runner.claimed.lineup import Lineup
from tasks.runner.claimed.look_ahead import LOOK_EVERY_S, REST_S, LookAhead
from tests.makers import Stopwatch


class World:
    """What looking ahead sees and does."""

    def __init__(self) -> None:
        #: How many jobs are wanted, and how many wait.
        self.wanted = 3
        self.waiting = 10
        self.claimed = 0
        self.asked = 0
        self.is_away = False
        self.may_claim = True
        #: What is to be done aside.
        self.todo: list[Any] = []

    def wants_more(self) -> bool:
        return self.claimed < self.wanted

    def anything_waits(self) -> bool:
        self.asked += 1
        if self.is_away:
            raise LedgerUnavailable("away")
        return self.waiting > 0

    def submit(self, call: Any, *arguments: Any) -> Future[Any]:
        self.todo.append((call, arguments))
        return Future()

    def claim(self) -> Any:
        if not self.waiting:
            return None
        self.waiting -= 1
        self.claimed += 1
        return self

    def work(self) -> int:
        """Do what is to be done aside; returns how much that was."""
        todo, self.todo = self.todo, []
        for call, arguments in todo:
            call(*arguments)
        return len(todo)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(look_ahead_module, "time", watch)
    return watch


@pytest.fixture
def look_ahead(world: World, watch: Stopwatch) -> LookAhead:
    assert watch.slept_s == []
    return LookAhead(
        cast(Claims, world),
        cast(Lineup, world),
        look_ahead_s=2.0,
        aside=cast(Executor, world),
        may_claim=lambda: world.may_claim,
        claim=world.claim,
    )


def test_as_many_as_are_wanted_and_aside(look_ahead: LookAhead, world: World) -> None:
    look_ahead.fill_soon()
    assert world.claimed == 0
    look_ahead.fill_soon()
    assert world.work() == 1, "one at a time does it"
    assert world.claimed == 3
    look_ahead.fill_soon()
    assert world.work() == 0


def test_as_many_as_there_are(look_ahead: LookAhead, world: World, watch: Stopwatch) -> None:
    world.waiting = 2
    look_ahead.fill_soon()
    world.work()
    assert world.claimed == 2
    world.waiting = 1
    look_ahead.fill_soon()
    assert world.work() == 0, "the ledger was asked a moment ago"
    watch.now_s += LOOK_EVERY_S
    look_ahead.fill_soon()
    world.work()
    assert world.claimed == 3


def test_not_where_others_say_no(look_ahead: LookAhead, world: World) -> None:
    world.may_claim = False
    look_ahead.fill_soon()
    assert world.work() == 0
    world.may_claim = True
    look_ahead.fill_soon()
    world.may_claim = False
    world.work()
    assert world.claimed == 0


def test_a_ledger_that_is_away_is_left_alone_for_a_while(look_ahead: LookAhead, world: World, watch: Stopwatch) -> None:
    world.is_away = True
    for _ in range(5):
        look_ahead.fill_soon()
        world.work()
        watch.now_s += 0.1
    assert world.asked == 1
    world.is_away = False
    watch.now_s += REST_S
    look_ahead.fill_soon()
    world.work()
    assert world.claimed == 3
