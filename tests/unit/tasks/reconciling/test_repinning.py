"""Waiting jobs whose catalogue nobody has any more, judged again as far as the time of a run goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import InvalidWorkflow
from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.ledger.pins import PinnedGraph, Pins
from core.records.job import FAILED, QUEUED
from tasks.judging import Judge
from tasks.reconciling import repinning
from tasks.reconciling.repinning import SECOND_LOOK_S, TIME_LIMIT_S, Review, follow_fleet
from tests.ledger_moves import WEBHOOK, digest_of, register, submit
from tests.makers import BrokerlessRuntime, Stopwatch
from tests.unit.catalogue_literals import Nodes, loading, with_checkpoints

HERE, THERE = "gpu0@here", "gpu1@here"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(repinning, "time", watch)
    return watch


@pytest.fixture
def review(ledger: Ledger, watch: Stopwatch) -> Review:
    return Review(ledger)


def waiting(ledger: Ledger, graph: Nodes, *catalogues: str, **fields: Any) -> str:
    return submit(ledger, graph_text=json.dumps(graph), catalogues=catalogues, **fields).id


def pins_of(ledger: Ledger, job_id: str) -> list[str]:
    with ledger.database.read() as connection:
        found: str | None = connection.execute(jobs.select().where(jobs.c.id == job_id)).one().catalogues
    return found.split(",") if found else []


def go(ledger: Ledger, name: str = HERE) -> str:
    """An instance ends, and with it its catalogue; returns whose it was."""
    digest = digest_of(ledger, name)
    ledger.instances.heartbeat(name, worker=f"w-{name}", state="stopped", reason=None, is_drained=False, restarts=0)
    return digest


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Graphs that were judged, by their text."""
    judged: list[str] = []
    accepting = Judge.accepting

    def note(self: Judge, wanted: PinnedGraph, digests: Any) -> tuple[list[str], InvalidWorkflow | None]:
        judged.append(wanted.graph)
        return accepting(self, wanted, digests)

    monkeypatch.setattr(Judge, "accepting", note)
    return judged


class TestPins:
    def test_they_follow_an_instance_that_has_another_file(self, ledger: Ledger, review: Review) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE)
        job_id = waiting(ledger, loading("a"), digest_of(ledger, HERE))
        assert review.go_on() == []
        register(ledger, HERE, with_checkpoints("a", "b"))
        assert review.go_on() == []
        assert digest_of(ledger, HERE) in pins_of(ledger, job_id)
        assert digest_of(ledger, THERE) not in pins_of(ledger, job_id)

    def test_what_all_accept_needs_none(self, ledger: Ledger, review: Review) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        job_id = waiting(ledger, loading("a"), "f" * 64)
        register(ledger, HERE, with_checkpoints("a"))
        review.go_on()
        assert pins_of(ledger, job_id) == []
        assert ledger.jobs.get(job_id).status == QUEUED

    def test_what_is_away_may_come_back_as_it_was(self, ledger: Ledger, review: Review) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        away = go(ledger)
        job_id = waiting(ledger, loading("a"), away)
        assert review.go_on() == []
        assert pins_of(ledger, job_id) == [away]
        assert ledger.jobs.get(job_id).status == QUEUED

    def test_and_is_kept_beside_new_ones(self, ledger: Ledger, review: Review) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        away = digest_of(ledger, HERE)
        register(ledger, THERE, with_checkpoints("a", "b"))
        register(ledger, "gpu2@here", with_checkpoints("c"))
        go(ledger)
        job_id = waiting(ledger, loading("a"), away)
        review.go_on()
        assert sorted(pins_of(ledger, job_id)) == sorted([away, digest_of(ledger, THERE)])

    def test_another_that_is_away_and_accepts_it_is_waited_for(self, ledger: Ledger, review: Review) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        away = go(ledger)
        job_id = waiting(ledger, loading("a"), "f" * 64)
        assert review.go_on() == []
        assert pins_of(ledger, job_id) == [away]

    def test_what_nothing_accepts_fails_with_the_reason(
        self, ledger: Ledger, review: Review, caplog: pytest.LogCaptureFixture
    ) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        job_id = waiting(ledger, loading("a"), "f" * 64)
        assert review.go_on() == [job_id]
        job = ledger.jobs.get(job_id)
        assert job.status == FAILED
        assert job.error is not None
        assert job.error.code == "invalid_workflow"
        assert job.error.message.startswith("No GPU of the fleet can run it any more. ")
        assert job.error.node_id is not None
        assert job.error.class_type == "CheckpointLoaderSimple"
        assert f"job {job_id} fails" in caplog.text

    def test_one_that_was_claimed_meanwhile_does_not(
        self, ledger: Ledger, review: Review, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        waiting(ledger, loading("a"), "f" * 64)
        monkeypatch.setattr(Pins, "fail", lambda *_arguments: False)
        assert review.go_on() == []

    def test_one_whose_graph_is_gone_is_passed_over(
        self, ledger: Ledger, review: Review, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        first, second = (waiting(ledger, loading("a"), "f" * 64) for _ in range(2))
        graphs = Pins.graphs
        monkeypatch.setattr(
            Pins,
            "graphs",
            lambda self, ids: {job_id: graph for job_id, graph in graphs(self, ids).items() if job_id != first},
        )
        assert review.go_on() == [second]

    def test_what_an_instance_suits_is_not_judged(self, ledger: Ledger, review: Review, judged: list[str]) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        waiting(ledger, loading("a"), digest_of(ledger, HERE), "f" * 64)
        waiting(ledger, loading("a"))
        assert review.go_on() == []
        assert judged == []

    def test_a_refusal_that_names_no_node_is_told_without(self) -> None:
        error = repinning._error(InvalidWorkflow("It has no outputs."))
        assert (error.message, error.node_id, error.class_type) == (
            "No GPU of the fleet can run it any more. It has no outputs.",
            None,
            None,
        )


class TestLooks:
    """When it looks, how often, and for how long."""

    @pytest.fixture
    def fleet(self, ledger: Ledger, judged: list[str]) -> Callable[[int], None]:
        """Makes jobs wait for an instance that is away: they are judged at each look, and stay as they are."""
        register(ledger, HERE, with_checkpoints("a"))
        register(ledger, THERE, with_checkpoints("b"))
        away = go(ledger)

        def wait(count: int) -> None:
            for number in range(count):
                waiting(ledger, {**loading("a"), "note": {"class_type": "N", "inputs": {"n": number}}}, away)

        return wait

    def test_twice_after_a_change_of_the_fleet(
        self, review: Review, fleet: Callable[[int], None], judged: list[str], watch: Stopwatch, ledger: Ledger
    ) -> None:
        fleet(3)
        for pause_s, looks in [(0.0, 1), (0.0, 1), (SECOND_LOOK_S - 0.1, 1), (0.1, 2), (60.0, 2)]:
            watch.now_s += pause_s
            review.go_on()
            assert len(judged) == 3 * looks
        register(ledger, THERE, with_checkpoints("c"))
        review.go_on()
        assert len(judged) == 9, "at once"
        assert (SECOND_LOOK_S, TIME_LIMIT_S, repinning.BATCH, repinning.STEP) == (10.0, 1.0, 500, 50)

    def test_a_change_of_what_is_known_is_one(
        self, review: Review, fleet: Callable[[int], None], judged: list[str], watch: Stopwatch, ledger: Ledger
    ) -> None:
        fleet(1)
        review.go_on()
        register(ledger, "gpu7@here", with_checkpoints("d"))
        go(ledger, "gpu7@here")
        review.go_on()
        assert len(judged) == 2

    def test_with_no_instance_jobs_wait(self, ledger: Ledger, review: Review, judged: list[str]) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        go(ledger)
        job_id = waiting(ledger, loading("a"), "f" * 64)
        assert review.go_on() == []
        assert (judged, ledger.jobs.get(job_id).status) == ([], QUEUED)

    def test_batch_by_batch_and_step_by_step(
        self, review: Review, fleet: Callable[[int], None], judged: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(repinning, "BATCH", 4)
        monkeypatch.setattr(repinning, "STEP", 3)
        fleet(8)
        review.go_on()
        assert len(judged) == len(set(judged)) == 8

    def test_where_the_time_was_over_it_goes_on(
        self,
        ledger: Ledger,
        review: Review,
        fleet: Callable[[int], None],
        judged: list[str],
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(repinning, "BATCH", 4)
        monkeypatch.setattr(repinning, "STEP", 2)
        graphs = Pins.graphs

        def take_long(self: Pins, ids: Any) -> Any:
            watch.now_s += 0.5
            return graphs(self, ids)

        monkeypatch.setattr(Pins, "graphs", take_long)
        fleet(7)
        review.go_on(0.5)
        assert len(judged) == 4, "the last moment counts"
        review.go_on(0.4)
        assert len(judged) == 6
        review.go_on(0.4)
        assert len(judged) == len(set(judged)) == 7

    def test_a_run_ends_between_batches_too(
        self,
        review: Review,
        ledger: Ledger,
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        register(ledger, HERE, with_checkpoints("a"))
        here = digest_of(ledger, HERE)
        for _ in range(5):
            waiting(ledger, loading("a"), here)
        monkeypatch.setattr(repinning, "BATCH", 2)
        asked: list[str] = []
        pins = Pins.waiting

        def take_long(self: Pins, *, after: str, limit: int) -> Any:
            asked.append(after)
            watch.now_s += 0.5
            return pins(self, after=after, limit=limit)

        monkeypatch.setattr(Pins, "waiting", take_long)
        review.go_on(0.5)
        assert len(asked) == 2
        review.go_on(0.5)
        assert len(asked) == len(set(asked)) == 3
        watch.now_s += SECOND_LOOK_S
        review.go_on(0.1)
        assert asked[3] == asked[0] == "", "the second look begins anew"

    def test_one_that_failed_is_told_of_though_the_time_is_over(
        self, ledger: Ledger, review: Review, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        register(ledger, HERE, with_checkpoints("b"))
        job_id = waiting(ledger, loading("a"), "f" * 64)
        assert review.go_on(-1.0) == [job_id]


def test_jobs_that_fail_are_told_of(runtime: BrokerlessRuntime, watch: Stopwatch) -> None:
    register(runtime.ledger, HERE, with_checkpoints("b"))
    job_id = waiting(runtime.ledger, loading("a"), "f" * 64, webhook=WEBHOOK)
    follow_fleet(runtime)
    follow_fleet(runtime)
    assert runtime.published.sent == [("notify", job_id)]
