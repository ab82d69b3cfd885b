"""A tick of the reconciler: its steps in order, those it leaves out after the clock was set, and what each does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.errors import LedgerUnavailable
from core.ledger.scheduling.turns import Turn, Turns
from core.ledger.secrets import Secrets
from core.ledger.timekeeping import Timekeeping
from core.ledger.webhooks.outbox import Outbox
from core.records.job import EXPIRED, FAILED, QUEUED
from tasks import reconcile as reconcile_module
from tasks.reconcile import (
    SETTLED_S,
    expire_waiting,
    publish_missing_turns,
    reconcile,
    resume_uploads,
    take_steps,
    wipe_secrets,
)
from tests.ledger_moves import generated, set_columns, submit
from tests.makers import BrokerlessRuntime, StoppedClock, Stopwatch, come_up
from tests.unit.tasks.task_calls import call


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were taken, where each only says so."""
    done: list[str] = []

    def stand_in(step: Callable[..., None]) -> Callable[..., None]:
        def note(_runtime: object) -> None:
            done.append(step.__name__)

        return note

    stand_ins = {step: stand_in(step) for step in reconcile_module.STEPS}
    limits = {stand_ins[step]: wait_s for step, wait_s in reconcile_module.AFTER_SET_S.items()}
    monkeypatch.setattr(reconcile_module, "STEPS", tuple(stand_ins.values()))
    monkeypatch.setattr(reconcile_module, "AFTER_SET_S", limits)
    return done


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(reconcile_module, "time", watch)
    monkeypatch.setattr(reconcile_module._last, "ended_s", float("-inf"))
    return watch


def set_ago(monkeypatch: pytest.MonkeyPatch, seconds: float | None) -> None:
    """The clock was set so long ago; None: nobody can say."""

    def look(_self: Timekeeping) -> float:
        if seconds is None:
            raise LedgerUnavailable("away")
        return seconds

    monkeypatch.setattr(Timekeeping, "look", look)


ALL = [
    "take_back",
    "take_back_unstored",
    "expire_waiting",
    "release_stalled",
    "expire_late",
    "follow_fleet",
    "follow_lessons",
    "mend_lines",
    "carry_on_batches",
    "lead_batches",
    "publish_missing_turns",
    "watch_pools",
    "count_templates",
    "advance_rollout",
    "resume_uploads",
    "resume_checks",
    "wipe_secrets",
    "fold_usage",
    "fold_metrics",
    "take_sample",
    "fold_events",
    "remove_expired",
    "forget_batches",
    "sweep",
]
HARMLESS = [
    "follow_fleet",
    "follow_lessons",
    "mend_lines",
    "carry_on_batches",
    "lead_batches",
    "publish_missing_turns",
    "watch_pools",
    "count_templates",
    "advance_rollout",
    "resume_uploads",
    "resume_checks",
    "wipe_secrets",
    "fold_usage",
    "fold_metrics",
    "take_sample",
    "forget_batches",
]


class TestSteps:
    def test_all_are_taken_in_order(
        self, runtime: BrokerlessRuntime, done: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_ago(monkeypatch, float("inf"))
        take_steps(runtime)
        assert done == ALL

    def test_what_goes_by_the_clock_waits_after_it_was_set(
        self, runtime: BrokerlessRuntime, done: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease_s, host_lost_s = runtime.settings.lease_s, runtime.settings.host_lost_s
        for seconds, steps in [
            (None, HARMLESS),
            (0.0, HARMLESS),
            (lease_s - 0.1, HARMLESS),
            (lease_s, ["take_back", "release_stalled", "expire_late", *HARMLESS]),
            (host_lost_s - 0.1, ["take_back", "release_stalled", "expire_late", *HARMLESS]),
            (host_lost_s, ["take_back", "take_back_unstored", "release_stalled", "expire_late", *HARMLESS]),
            (SETTLED_S - 0.1, ["take_back", "take_back_unstored", "release_stalled", "expire_late", *HARMLESS]),
            (SETTLED_S, ALL),
        ]:
            done.clear()
            set_ago(monkeypatch, seconds)
            take_steps(runtime)
            assert done == steps, seconds
        assert SETTLED_S == 3600.0

    def test_a_ledger_that_cannot_tell_may_have_been_set_just_now(
        self, runtime: BrokerlessRuntime, done: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runtime.settings = runtime.settings.model_copy(update={"lease_s": 0.5})
        set_ago(monkeypatch, None)
        take_steps(runtime)
        assert done == HARMLESS


class TestTicks:
    def test_of_ticks_that_have_piled_up_the_first_does_it(
        self, runtime: BrokerlessRuntime, done: list[str], watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        set_ago(monkeypatch, float("inf"))
        for pause_s, ticks in [(0.0, 1), (0.0, 1), (runtime.settings.reconcile_s / 2 - 0.01, 1), (0.01, 2)]:
            watch.now_s += pause_s
            call(runtime, reconcile)
            assert len(done) == ticks * len(ALL)

    def test_the_pause_counts_from_the_end_of_the_last_one(
        self, runtime: BrokerlessRuntime, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks: list[float] = []

        def take_long(_runtime: object) -> None:
            ticks.append(watch.now_s)
            watch.now_s += 60

        monkeypatch.setattr(reconcile_module, "take_steps", take_long)
        for _ in range(2):
            call(runtime, reconcile)
        assert len(ticks) == 1

    def test_none_waits_beside_one_that_is_under_way(
        self, runtime: BrokerlessRuntime, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks: list[int] = []

        def tick_again(_runtime: object) -> None:
            ticks.append(1)
            call(runtime, reconcile)

        monkeypatch.setattr(reconcile_module, "take_steps", tick_again)
        call(runtime, reconcile)
        assert len(ticks) == 1

    def test_one_that_fails_leaves_the_way_free(
        self, runtime: BrokerlessRuntime, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_runtime: object) -> None:
            raise KeyError

        monkeypatch.setattr(reconcile_module, "take_steps", fail)
        for _ in range(2):
            with pytest.raises(KeyError):
                call(runtime, reconcile)


class TestExpiring:
    @pytest.mark.parametrize(("limit_s", "has_expired"), [(0.0, False), (60.0, True), (6_000.0, False)])
    def test_where_the_operator_set_a_limit(
        self, runtime: BrokerlessRuntime, clock: StoppedClock, limit_s: float, has_expired: bool
    ) -> None:
        runtime.settings = runtime.settings.model_copy(update={"queue_timeout_s": limit_s})
        job = submit(runtime.ledger)
        clock.pass_ms(61_000)
        expire_waiting(runtime)
        assert runtime.ledger.jobs.get(job.id).status == (EXPIRED if has_expired else QUEUED)
        assert runtime.published.sent == ([("notify", job.id)] if has_expired else [])


class TestMissingTurns:
    def test_one_for_each_idle_instance(self, runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
        come_up(runtime.ledger)
        job = submit(runtime.ledger)
        clock.pass_ms(60_000)
        come_up(runtime.ledger)
        publish_missing_turns(runtime)
        assert runtime.published.sent == [("turn", job.id)]

    def test_a_broker_that_takes_one_no_more_is_not_asked_for_the_next(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def turn_for(turn: Turn) -> bool:
            asked.append(turn.job_id)
            return len(asked) < 2

        turns = [Turn(job_id=job_id, instance="gpu0@here", has_queue=True, waits_since_ms=0) for job_id in "abc"]
        monkeypatch.setattr(Turns, "missing", lambda _self: turns)
        monkeypatch.setattr(runtime.publisher, "turn_for", turn_for)
        publish_missing_turns(runtime)
        assert asked == ["a", "b"]


class TestResuming:
    def test_files_that_seem_forgotten_get_another_turn_where_they_lie(
        self, runtime: BrokerlessRuntime, clock: StoppedClock
    ) -> None:
        there = generated(runtime.ledger, instance="gpu0@there")
        nowhere = generated(runtime.ledger)
        set_columns(runtime.ledger, nowhere.job_id, instance=None)
        clock.pass_ms(60_000)
        resume_uploads(runtime)
        assert sorted(runtime.published.sent) == sorted(
            [("store", there.job_id, 1, "there"), ("store", nowhere.job_id, 1, runtime.settings.host)]
        )

    @pytest.mark.parametrize(("retention_s", "give_up_s"), [(100, 50.0), (50, 100.0)])
    def test_files_that_nobody_comes_for_are_given_up(
        self,
        runtime: BrokerlessRuntime,
        clock: StoppedClock,
        caplog: pytest.LogCaptureFixture,
        retention_s: int,
        give_up_s: float,
    ) -> None:
        changes = {"retention_s": retention_s, "upload_give_up_s": give_up_s}
        runtime.settings = runtime.settings.model_copy(update=changes)
        late = generated(runtime.ledger)
        clock.pass_ms(30_000)
        fresh = generated(runtime.ledger)
        clock.pass_ms(71_000)
        resume_uploads(runtime)
        assert runtime.ledger.jobs.get(late.job_id).status == FAILED
        assert ("notify", late.job_id) in runtime.published.sent
        assert ("store", fresh.job_id, 1, "here") in runtime.published.sent
        assert f"job {late.job_id} failed" in caplog.text

    def test_webhooks_that_are_due_are_sent(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Outbox, "jobs_due", lambda _self: ["a", "b"])
        resume_uploads(runtime)
        assert runtime.published.sent == [("notify", "a"), ("notify", "b")]


def test_secrets_that_have_served_are_wiped(runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[Any] = []
    monkeypatch.setattr(Secrets, "wipe", lambda self: wiped.append(self))
    wipe_secrets(runtime)
    assert wiped == [runtime.ledger.secrets]
