"""Ticks: when they are due, and a broker that does not take them."""

from __future__ import annotations

import logging
import shelve
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.beat import SchedulingError

from tasks.messaging import ticks
from tasks.messaging.ticks import Ticks, TickScheduler
from tests.makers import Stopwatch

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("ticks", set_as_current=False)
    yield app
    app.close()


class TestDue:
    @pytest.mark.parametrize(
        ("since_s", "expected"),
        [(0.0, (False, 15.0)), (14.0, (False, 1.0)), (15.0, (True, 15.0)), (99.0, (True, 15.0))],
    )
    def test_after_the_interval(self, app: Celery, since_s: float, expected: tuple[bool, float]) -> None:
        tick = Ticks(15.0, nowfun=lambda: NOW, app=app)
        assert tuple(tick.is_due(NOW - timedelta(seconds=since_s))) == expected

    def test_a_last_time_in_the_future_is_no_reason_to_wait(self, app: Celery) -> None:
        tick = Ticks(15.0, nowfun=lambda: NOW, app=app)
        assert tuple(tick.is_due(NOW + timedelta(days=3))) == (True, 15.0)


class TestFile:
    """The file in which beat keeps when it last published."""

    def scheduler(self, app: Celery, path: Path, schedule: Any) -> TickScheduler:
        app.conf.beat_schedule = {"reconcile": {"task": "reconcile", "schedule": schedule}}
        return TickScheduler(app=app, schedule_filename=str(path))

    def test_of_a_release_whose_classes_are_elsewhere_is_made_anew(
        self, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "beat-schedule"
        former = ModuleType("tasks.former_ticks")
        former.Ticks = type("Ticks", (Ticks,), {"__module__": former.__name__})  # type: ignore[attr-defined]
        with monkeypatch.context() as then:
            then.setitem(sys.modules, former.__name__, former)
            self.scheduler(app, path, former.Ticks(5.0)).close()
        with shelve.open(str(path)) as kept, pytest.raises(ModuleNotFoundError):
            kept["entries"]

        for _start in range(2):
            scheduler = self.scheduler(app, path, Ticks(5.0))
            assert type(scheduler.schedule["reconcile"].schedule) is Ticks
            scheduler.close()

    def test_of_the_run_before_is_kept(self, app: Celery, tmp_path: Path) -> None:
        first = self.scheduler(app, tmp_path / "beat-schedule", Ticks(5.0))
        first.schedule["reconcile"].last_run_at = NOW
        first.close()

        second = self.scheduler(app, tmp_path / "beat-schedule", Ticks(5.0))
        assert second.schedule["reconcile"].last_run_at == NOW
        second.close()


class TestScheduler:
    @pytest.fixture
    def scheduler(self, app: Celery) -> TickScheduler:
        return TickScheduler.__new__(TickScheduler)

    def test_the_next_look_is_by_a_clock_that_cannot_be_set(
        self, scheduler: TickScheduler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ticks, "time", Stopwatch())
        assert scheduler._when(None, 15.0) == pytest.approx(1_014.99)
        monkeypatch.setattr(TickScheduler, "adjust", lambda _self, _seconds: None)
        assert scheduler._when(None, None) == 1_000.0

    def test_a_broker_that_takes_nothing_costs_a_line(
        self, scheduler: TickScheduler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        asked: list[dict[str, Any]] = []

        def refuse(_self: TickScheduler, entry: Any, **options: Any) -> None:
            asked.append(options)
            raise SchedulingError("x") from OSError("no broker")

        monkeypatch.setattr(TickScheduler, "apply_async", refuse)
        producer = object()
        scheduler.apply_entry(SimpleNamespace(task="reconcile"), producer=producer)
        assert asked == [{"producer": producer, "advance": False}]
        (record,) = caplog.records
        assert record.getMessage() == "reconcile was not published: the broker does not take it (no broker)"
        assert record.exc_info is None
