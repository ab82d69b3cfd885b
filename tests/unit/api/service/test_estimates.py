"""Places of waiting jobs as one API process tells them: from one look for all, and never from before a job came."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from api.http import cached
from api.service.estimates import MAX_AGE_S, Estimates
from core.ledger import Ledger
from core.ledger.scheduling import heads
from core.ledger.scheduling.outlook import Outlook, OutlookReader
from tests.ledger_moves import claimed, submit
from tests.makers import NAME, StoppedClock, Stopwatch, come_up


class Counted:
    """How often a method was called, and of what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        original: Callable[..., Any] = getattr(owner, name)

        def counted(instance: object, *arguments: Any) -> Any:
            self.calls.append(arguments)
            return original(instance, *arguments)

        monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch, OutlookReader, "read")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch, OutlookReader, "indexes")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    stopwatch = Stopwatch()
    monkeypatch.setattr(cached, "time", stopwatch)
    return stopwatch


@pytest.fixture
def estimates(ledger: Ledger, clock: StoppedClock, looks: Counted, counts: Counted) -> Estimates:
    # After those two: it keeps the methods that they count.
    come_up(ledger)
    return Estimates(ledger)


def positions(estimates: Estimates, jobs: Collection[Any]) -> list[int | None]:
    return [None if (place := estimates.place(job)) is None else place.position for job in jobs]


class TestPlace:
    def test_of_all_that_wait_comes_from_one_look_and_from_nothing_else(
        self, ledger: Ledger, estimates: Estimates, clock: StoppedClock, looks: Counted, counts: Counted
    ) -> None:
        jobs = []
        for _ in range(3):
            jobs.append(submit(ledger))
            clock.pass_ms(1)
        assert positions(estimates, jobs) == [1, 2, 3]
        assert positions(estimates, jobs) == [1, 2, 3]
        assert (len(looks.calls), counts.calls) == (1, [])

    def test_is_looked_up_again_when_the_look_is_old(
        self, ledger: Ledger, estimates: Estimates, clock: StoppedClock, watch: Stopwatch, looks: Counted
    ) -> None:
        first = submit(ledger)
        clock.pass_ms(1)
        second = submit(ledger)
        assert positions(estimates, [second]) == [2]
        ledger.jobs.cancel(first.id)
        assert positions(estimates, [second]) == [2]
        watch.now_s += MAX_AGE_S
        assert positions(estimates, [second]) == [1]
        assert len(looks.calls) == 2

    def test_of_one_that_just_came_is_worth_a_look(
        self,
        ledger: Ledger,
        estimates: Estimates,
        clock: StoppedClock,
        watch: Stopwatch,
        looks: Counted,
        counts: Counted,
    ) -> None:
        known = submit(ledger)
        assert positions(estimates, [known]) == [1]
        clock.pass_ms(1)
        newer = submit(ledger)
        assert positions(estimates, [newer, known]) == [2, 1]
        assert (len(looks.calls), counts.calls) == (2, [])

    def test_of_one_that_just_came_to_a_line_that_is_known_costs_a_count_where_looks_are_dear(
        self,
        ledger: Ledger,
        estimates: Estimates,
        clock: StoppedClock,
        watch: Stopwatch,
        looks: Counted,
        counts: Counted,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        known = submit(ledger)
        read = ledger.outlook.read

        def slowly() -> Outlook:
            found = read()
            watch.now_s += 0.05
            return found

        monkeypatch.setattr(estimates._outlook, "_load", slowly)
        assert positions(estimates, [known]) == [1]
        clock.pass_ms(1)
        newer = submit(ledger)
        place = estimates.place(newer)
        assert place is not None
        assert (place.position, place.is_far) == (2, False)
        assert (len(looks.calls), len(counts.calls)) == (1, 1)

    def test_of_one_that_just_came_to_a_line_of_its_own_is_worth_a_look(
        self, ledger: Ledger, estimates: Estimates, clock: StoppedClock, looks: Counted
    ) -> None:
        known = submit(ledger)
        clock.pass_ms(1)
        assert positions(estimates, [known]) == [1]
        clock.pass_ms(1)
        urgent = submit(ledger, priority=5)
        clock.pass_ms(1)
        assert positions(estimates, [urgent, known]) == [1, 2]
        assert len(looks.calls) == 2

    def test_counts_down_between_two_looks(self, ledger: Ledger, estimates: Estimates, clock: StoppedClock) -> None:
        claimed(ledger, NAME)
        job = submit(ledger)
        clock.pass_ms(1)
        first = estimates.place(job)
        clock.pass_ms(600)
        then = estimates.place(job)
        assert first is not None
        assert then is not None
        assert first.starts_in_s is not None
        assert then.starts_in_s == pytest.approx(first.starts_in_s - 0.6)
        assert first.reason.in_s is not None
        assert then.reason.in_s == pytest.approx(first.reason.in_s - 0.6)
        clock.pass_ms(3_600_000)
        late = estimates.place(job)
        assert late is not None
        assert late.starts_in_s == 0.0

    def test_there_is_none_of_a_job_that_runs_or_has_left(self, ledger: Ledger, estimates: Estimates) -> None:
        running, gone = claimed(ledger, NAME), submit(ledger)
        ledger.jobs.cancel(gone.id)
        assert positions(estimates, [ledger.jobs.get(running.job_id), gone]) == [None, None]

    def test_without_a_gpu_there_is_a_reason_and_nothing_else(self, ledger: Ledger) -> None:
        place = Estimates(ledger).place(submit(ledger))
        assert place is not None
        assert (place.position, place.starts_in_s, place.wait_ms) == (None, None, None)
        assert (place.reason.code, place.sentence) == ("no_gpu", "No GPU of the fleet can run it now.")


class TestPlaces:
    def test_of_many_jobs_cost_one_count_for_all_that_are_far(
        self,
        ledger: Ledger,
        estimates: Estimates,
        clock: StoppedClock,
        counts: Counted,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(heads, "LOOK", 2)
        jobs = []
        for _ in range(5):
            jobs.append(submit(ledger))
            clock.pass_ms(1)
        running = ledger.jobs.get(claimed(ledger, NAME, priority=1).job_id)
        places = estimates.places([*jobs, running])
        assert [places[job.id].position for job in jobs] == [1, 2, 3, 4, 5]
        assert [places[job.id].is_far for job in jobs] == [False, False, True, True, True]
        assert running.id not in places
        assert [set(ids) for (ids,) in counts.calls] == [{job.id for job in jobs[2:]}]

    def test_of_none_cost_nothing(self, ledger: Ledger, estimates: Estimates, looks: Counted) -> None:
        assert estimates.places([]) == {}
        assert looks.calls == []


def test_sizes_are_never_from_before_a_job_came(ledger: Ledger, estimates: Estimates, clock: StoppedClock) -> None:
    first = submit(ledger)
    clock.pass_ms(1)
    assert estimates.sizes(first) == {"queued": 1}
    clock.pass_ms(1)
    second = submit(ledger)
    assert (estimates.sizes(first), estimates.sizes(second)) == ({"queued": 1}, {"queued": 2})
