"""A clock that was set is noticed, once; what would wait for days is put right, and nothing else is moved."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import select, update

from core.ledger import Ledger
from core.ledger import timekeeping as timekeeping_module
from core.ledger.database.tables import deliveries, instances, jobs, lines
from core.ledger.facts import CLOCK
from core.records.job import DELIVERING, QUEUED, RUNNING, SUCCEEDED, TERMINAL
from core.settings import Settings
from tests.ledger_moves import WEBHOOK, claimed, set_columns, submit
from tests.makers import StoppedClock, Stopwatch, come_up, record_of

NEVER_S = float("inf")
#: The clocks of hosts may be apart by so much, and somebody looks at least so often.
APART_MS, GAP_MS, NOTE_MS = 60_000, 600_000, 60_000


def times_of(ledger: Ledger, job_id: str) -> dict[str, int | None]:
    columns = (jobs.c.lease_until_ms, jobs.c.updated_at_ms, jobs.c.generated_at_ms)
    with ledger.database.read() as connection:
        return dict(connection.execute(select(*columns).where(jobs.c.id == job_id)).one()._mapping)


def look(ledger: Ledger) -> float:
    return ledger.timekeeping.look()


def lease_ms(ledger: Ledger) -> int:
    return ledger.timekeeping._lease_ms


class TestLook:
    def test_the_first_one_is_written_down(self, ledger: Ledger, clock: StoppedClock) -> None:
        assert look(ledger) == NEVER_S
        assert ledger.facts.get(CLOCK) == f"{clock.now_ms} 0"

    def test_a_look_is_written_down_once_a_minute(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        noted = ledger.facts.get(CLOCK)
        clock.pass_ms(NOTE_MS)
        assert look(ledger) == NEVER_S
        assert ledger.facts.get(CLOCK) == noted
        clock.pass_ms(1)
        assert look(ledger) == NEVER_S
        assert ledger.facts.get(CLOCK) == f"{clock.now_ms} 0"

    @pytest.mark.parametrize("by_ms", [-APART_MS, GAP_MS])
    def test_clocks_may_be_a_little_apart(self, ledger: Ledger, clock: StoppedClock, by_ms: int) -> None:
        look(ledger)
        clock.pass_ms(by_ms)
        assert look(ledger) == NEVER_S

    @pytest.mark.parametrize("by_ms", [-APART_MS - 1, GAP_MS + 1])
    def test_it_was_set(self, ledger: Ledger, clock: StoppedClock, by_ms: int) -> None:
        look(ledger)
        clock.pass_ms(by_ms)
        assert look(ledger) == 0.0
        assert ledger.facts.get(CLOCK) == f"{clock.now_ms} {clock.now_ms}"
        set_ms = clock.now_ms
        for passed_ms in (2500, NOTE_MS):
            clock.pass_ms(passed_ms)
            assert look(ledger) == (clock.now_ms - set_ms) / 1000
        assert ledger.facts.get(CLOCK) == f"{clock.now_ms} {set_ms}", "when it was set is kept"

    def test_another_host_may_see_it_before_it_was_set(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.facts.settle(CLOCK, f"{clock.now_ms + 5} {clock.now_ms + 5}")
        assert look(ledger) == 0.0

    @pytest.mark.parametrize("noted", ["", "x y", "1", "1 2 3"])
    def test_what_nobody_can_read_is_a_clock_that_was_set(
        self, ledger: Ledger, clock: StoppedClock, noted: str
    ) -> None:
        ledger.facts.settle(CLOCK, noted)
        assert look(ledger) == 0.0
        assert ledger.facts.get(CLOCK) == f"{clock.now_ms} {clock.now_ms}"


class TestSetAhead:
    def test_a_delivery_has_as_long_as_before(self, ledger: Ledger, clock: StoppedClock) -> None:
        delivers, ended = submit(ledger).id, submit(ledger).id
        set_columns(ledger, delivers, status=DELIVERING, generated_at_ms=5000)
        set_columns(ledger, ended, status=SUCCEEDED, generated_at_ms=5000)
        look(ledger)
        clock.pass_ms(GAP_MS + 7)
        look(ledger)
        look(ledger)
        assert times_of(ledger, delivers)["generated_at_ms"] == 5000 + GAP_MS + 7
        assert times_of(ledger, ended)["generated_at_ms"] == 5000

    def test_only_one_of_those_who_notice_moves_it(self, ledger: Ledger, clock: StoppedClock) -> None:
        job_id = submit(ledger).id
        set_columns(ledger, job_id, status=DELIVERING, generated_at_ms=5000)
        ledger.facts.settle(CLOCK, "1 0")
        ledger.timekeeping._set("another note", GAP_MS, clock.now_ms, exact_ms=GAP_MS)
        assert times_of(ledger, job_id)["generated_at_ms"] == 5000
        assert ledger.facts.get(CLOCK) == "1 0"


class TestDeadlines:
    """Of jobs that are to begin by a certain time."""

    @pytest.mark.parametrize("by_ms", [24 * 3_600_000, -24 * 3_600_000])
    def test_a_job_has_as_long_to_begin_as_it_had(self, ledger: Ledger, clock: StoppedClock, by_ms: int) -> None:
        look(ledger)
        job_id = submit(ledger, start_within_s=60.0).id
        clock.pass_ms(20_000)
        clock.pass_ms(by_ms)
        # By the new clock already.
        newer = submit(ledger, start_within_s=90.0).id
        look(ledger)
        look(ledger)
        found = {each: start_by(ledger, each) for each in (job_id, newer)}
        # How long ago somebody looked is known to the second here, and no time has passed by that clock.
        assert found[newer] == clock.now_ms + 90_000
        assert found[job_id] == clock.now_ms + 60_000, "no more than it asked for"
        with ledger.database.read() as connection:
            assert connection.execute(select(lines.c.start_by_ms)).scalars().all() == [clock.now_ms + 60_000]

    def test_time_that_passed_is_not_given_back(self, ledger: Ledger, clock: StoppedClock) -> None:
        job_id = submit(ledger, start_within_s=60.0).id
        clock.pass_ms(20_000)
        look(ledger)
        clock.pass_ms(24 * 3_600_000)
        look(ledger)
        assert start_by(ledger, job_id) == clock.now_ms + 40_000

    def test_nor_is_it_where_nobody_looked_meanwhile(
        self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process was frozen, or its ledger away: by its other clock it knows that no clock was set."""
        watch = Stopwatch()
        monkeypatch.setattr(timekeeping_module, "time", watch)
        look(ledger)
        job_id = submit(ledger, start_within_s=60.0).id
        before_ms = start_by(ledger, job_id)
        clock.pass_ms(3_600_000)
        watch.now_s += 3_600
        assert look(ledger) == 0.0
        assert start_by(ledger, job_id) == before_ms

    def test_a_job_that_came_while_nobody_looked_gets_no_more_than_it_asked_for(
        self, ledger: Ledger, clock: StoppedClock, sqlite_settings: Settings
    ) -> None:
        """A fleet whose io workers were off for two hours, which a process that begins cannot tell from a jump."""
        look(ledger)
        clock.pass_ms(3_600_000)
        job_id = submit(ledger, start_within_s=60.0).id
        clock.pass_ms(3_600_000)
        with closing(Ledger(sqlite_settings)) as another:
            assert look(another) == 0.0
        assert start_by(ledger, job_id) == clock.now_ms + 60_000


class TestOrder:
    def test_set_back_nobody_stands_before_those_who_came_earlier(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        came = []
        for _ in range(3):
            came.append(submit(ledger).id)
            clock.pass_ms(7_000)
        look(ledger)
        clock.pass_ms(-10_000_000)
        came.append(submit(ledger).id)
        clock.pass_ms(2_000)
        look(ledger)
        came.append(submit(ledger).id)
        assert order(ledger) == came
        with ledger.database.read() as connection:
            head = connection.execute(select(lines.c.head_ms)).scalar_one()
        assert head == ledger.jobs.get(came[0]).created_at_ms

    def test_set_ahead_nobody_is_moved(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        job = submit(ledger)
        clock.pass_ms(10_000_000)
        look(ledger)
        assert ledger.jobs.get(job.id).created_at_ms == job.created_at_ms

    def test_what_is_kept_is_kept_as_long(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        job = submit(ledger)
        clock.pass_ms(-10_000_000)
        look(ledger)
        moved = ledger.jobs.get(job.id)
        assert moved.expires_at_ms - moved.created_at_ms == job.expires_at_ms - job.created_at_ms
        assert moved.files_expire_at_ms - moved.created_at_ms == job.files_expire_at_ms - job.created_at_ms


def start_by(ledger: Ledger, job_id: str) -> int | None:
    with ledger.database.read() as connection:
        found: int | None = connection.execute(select(jobs.c.start_by_ms).where(jobs.c.id == job_id)).scalar_one()
    return found


def order(ledger: Ledger) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.status == QUEUED).order_by(jobs.c.created_at_ms, jobs.c.id)
    with ledger.database.read() as connection:
        return list(connection.execute(query).scalars())


class TestSetBack:
    """By an hour, unless it says otherwise."""

    BY_MS = 3_600_000

    def back(self, ledger: Ledger, clock: StoppedClock) -> None:
        clock.pass_ms(-self.BY_MS)
        assert look(ledger) == 0.0

    def test_the_dead_do_not_look_alive(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        come_up(ledger)
        come_up(ledger, "gpu1@here")
        with ledger.database.write() as transaction:
            its = update(instances).where(instances.c.name == "gpu1@here")
            transaction.connection.execute(its.values(heartbeat_at_ms=5))
        self.back(ledger, clock)
        assert record_of(ledger).heartbeat_at_ms == clock.now_ms
        assert record_of(ledger, "gpu1@here").heartbeat_at_ms == 5

    def test_a_lease_lasts_no_longer_than_a_new_one(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        held, cancelled = claimed(ledger, "gpu0@here").job_id, claimed(ledger, "gpu1@here").job_id
        ledger.jobs.cancel(cancelled)
        short = claimed(ledger, "gpu2@here").job_id
        set_columns(ledger, short, lease_until_ms=clock.now_ms - self.BY_MS + 1)
        waits = submit(ledger).id
        set_columns(ledger, waits, lease_until_ms=clock.now_ms)
        self.back(ledger, clock)
        for job_id in (held, cancelled):
            assert times_of(ledger, job_id)["lease_until_ms"] == clock.now_ms + lease_ms(ledger)
        assert times_of(ledger, short)["lease_until_ms"] == clock.now_ms + 1
        assert times_of(ledger, waits)["lease_until_ms"] == clock.now_ms + self.BY_MS

    @pytest.mark.parametrize("status", [QUEUED, RUNNING, "canceling", DELIVERING, *sorted(TERMINAL)])
    def test_what_has_not_ended_happened_by_now(self, ledger: Ledger, clock: StoppedClock, status: str) -> None:
        look(ledger)
        ahead, behind = submit(ledger).id, submit(ledger).id
        set_columns(ledger, ahead, status=status, generated_at_ms=clock.now_ms, updated_at_ms=clock.now_ms)
        set_columns(ledger, behind, status=status, generated_at_ms=5, updated_at_ms=6)
        later_ms = clock.now_ms
        self.back(ledger, clock)
        expected_ms = later_ms if status in TERMINAL else clock.now_ms
        found = times_of(ledger, ahead)
        assert (found["updated_at_ms"], found["generated_at_ms"]) == (expected_ms, expected_ms)
        found = times_of(ledger, behind)
        assert (found["updated_at_ms"], found["generated_at_ms"]) == (6, 5)

    def test_a_try_comes_as_soon_as_it_was_to(self, ledger: Ledger, clock: StoppedClock) -> None:
        look(ledger)
        begun_ms = clock.now_ms
        tries: dict[str, Any] = {}
        # In half a minute, at once, long ago, never.
        for at_ms in (begun_ms + 30_000, begun_ms - 10, 5, None):
            job_id = ledger.jobs.cancel(submit(ledger, webhook=WEBHOOK).id).id
            with ledger.database.write() as transaction:
                its = update(deliveries).where(deliveries.c.job_id == job_id)
                transaction.connection.execute(its.values(next_try_at_ms=at_ms))
            tries[job_id] = at_ms
        self.back(ledger, clock)
        with ledger.database.read() as connection:
            found = {row.job_id: row.next_try_at_ms for row in connection.execute(select(deliveries))}
        assert [found[job_id] for job_id in tries] == [clock.now_ms + 30_000, clock.now_ms, 5, None]

    def test_a_lease_is_as_long_as_the_settings_say(self, ledger: Ledger, runtime: Any) -> None:
        assert lease_ms(ledger) == runtime.settings.lease_s * 1000
