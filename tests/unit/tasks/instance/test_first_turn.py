"""The first turn of an instance: for what waits and it would take, and for nobody else."""

from __future__ import annotations

import pytest

from tasks.instance import first_turn
from tasks.instance.first_turn import publish_first_turn
from tests.ledger_moves import submit
from tests.makers import NAME, BrokerlessRuntime, come_up

OTHER = "gpu1@here"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[BrokerlessRuntime]:
    """Every runtime that is made for it."""
    runtimes: list[BrokerlessRuntime] = []

    def make(settings: object, app: object) -> BrokerlessRuntime:
        runtimes.append(BrokerlessRuntime(settings, app))  # type: ignore[arg-type]
        return runtimes[-1]

    monkeypatch.setattr(first_turn, "Runtime", make)
    return runtimes


def test_it_is_published_for_this_instance_alone(runtime: BrokerlessRuntime, made: list[BrokerlessRuntime]) -> None:
    for name in (NAME, OTHER):
        come_up(runtime.ledger, name)
    jobs = {submit(runtime.ledger).id for _ in range(2)}
    by_instance = {turn.instance: turn.job_id for turn in runtime.ledger.turns.missing()}
    assert set(by_instance.values()) == jobs
    publish_first_turn(runtime.settings, OTHER)
    assert made[0].published.sent == [("turn", by_instance[OTHER])]
    assert made[0].is_closed


def test_without_a_job_there_is_none(runtime: BrokerlessRuntime, made: list[BrokerlessRuntime]) -> None:
    come_up(runtime.ledger)
    publish_first_turn(runtime.settings, NAME)
    assert made[0].published.sent == []
    assert made[0].is_closed
