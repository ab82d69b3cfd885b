"""Clocks that are set by days, ahead or back: no job is lost or run twice for it, nothing is removed, nothing waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from api.http.key_ring import KeyRing
from comfy.process.instance import Instance
from core import clock
from core.clock import WallClock, ledger_clock, now_ms
from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.database.fleet_tables import catalogues, facts
from core.ledger.database.tables import deliveries, instances, jobs
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.records.job import QUEUED, RUNNING
from core.settings import Settings
from tasks.instance.housekeeping import Housekeeper
from tasks.instance.plan import plan_instances
from tasks.messaging.app import make_app
from tasks.messaging.ticks import Ticks, TickScheduler
from tasks.reconcile import SETTLED_S, take_steps
from tasks.runtime import Runtime, equip
from tests.ledger_moves import WEBHOOK, claimed, generated, submit, succeeded
from tests.waiting import eventually

DAYS_MS = 3 * 24 * 3600 * 1000
NAME = "gpu0@here"

Move = Callable[[int], None]


@pytest.fixture
def move(monkeypatch: pytest.MonkeyPatch) -> Move:
    """Sets every clock of this process by so many milliseconds."""

    def by(milliseconds: int) -> None:
        monkeypatch.setattr(ledger_clock, "shift_ms", ledger_clock.shift_ms + milliseconds)

    return by


@pytest.fixture
def runtime(ledger_settings: Settings, move: Move) -> Iterator[Runtime]:
    """What the reconciler works with, after its first tick; the test runs on each kind of database."""
    runtime = equip(make_app(ledger_settings, "api"), ledger_settings)
    take_steps(runtime)
    yield runtime
    runtime.close()


def come_up(ledger: Ledger, name: str = NAME) -> None:
    ledger.instances.register(name=name, host="here", worker="w", kind="simulator", gpu="0")
    ledger.instances.up(
        name, worker="w", url="http://127.0.0.1:1", output_dir=None, version="1", device="d", object_info={}, restarts=0
    )


def heartbeat(ledger: Ledger) -> bool:
    return ledger.instances.heartbeat(NAME, worker="w", state=HEALTHY, reason=None, is_drained=False, restarts=0)


def state_of(ledger: Ledger, name: str = NAME) -> str:
    record = ledger.instances.get(name)
    assert record is not None
    return record.state


def pass_time(runtime: Runtime, move: Move, seconds: float) -> None:
    """The reconciler looks every now and then meanwhile."""
    while seconds > 0:
        move(round(min(seconds, 300) * 1000))
        take_steps(runtime)
        seconds -= 300


def test_set_ahead_no_running_job_is_taken_from_its_worker(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    lease_s = runtime.settings.lease_s
    living, dead = claimed(runtime.ledger, NAME), claimed(runtime.ledger, "gpu1@here")
    move(DAYS_MS)
    take_steps(runtime)
    assert runtime.ledger.jobs.get(living.job_id).status == RUNNING, "its worker could not renew yet"
    assert runtime.ledger.claims.renew([living]) == {living.job_id: RUNNING}
    pass_time(runtime, move, lease_s / 2)
    runtime.ledger.claims.renew([living])
    pass_time(runtime, move, lease_s / 2 + 1)
    assert runtime.ledger.jobs.get(living.job_id).status == RUNNING
    assert runtime.ledger.jobs.get(dead.job_id).status == QUEUED, "nobody renewed that one"


def test_set_ahead_nothing_is_removed_for_an_hour(ledger_settings: Settings, runtime: Runtime, move: Move) -> None:
    job_id = succeeded(runtime.ledger).job_id
    folder = ledger_settings.outputs_dir / job_id
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    come_up(runtime.ledger)
    move(10 * DAYS_MS)
    take_steps(runtime)
    pass_time(runtime, move, SETTLED_S - 60)
    assert (folder / "a.png").exists()
    assert runtime.ledger.jobs.get(job_id).status == "succeeded"
    assert runtime.ledger.instances.get(NAME) is not None
    pass_time(runtime, move, 120)
    assert not folder.exists(), "in the end the clock is believed"
    with pytest.raises(NotFound):
        runtime.ledger.jobs.get(job_id)
    assert runtime.ledger.instances.get(NAME) is None


def test_set_ahead_and_put_right_again_nothing_was_removed(runtime: Runtime, move: Move) -> None:
    job_id = succeeded(runtime.ledger).job_id
    move(10 * DAYS_MS)
    take_steps(runtime)
    pass_time(runtime, move, SETTLED_S / 2)
    move(-10 * DAYS_MS)
    pass_time(runtime, move, 2 * SETTLED_S)
    assert runtime.ledger.jobs.get(job_id).status == "succeeded"


def test_set_ahead_no_waiting_job_expires(ledger_settings: Settings, runtime: Runtime, move: Move) -> None:
    job_id = submit(runtime.ledger).id
    runtime.settings = ledger_settings.model_copy(update={"queue_timeout_s": 3600.0})
    move(DAYS_MS)
    take_steps(runtime)
    pass_time(runtime, move, 60)
    assert runtime.ledger.jobs.get(job_id).status == QUEUED


def test_set_no_deadline_comes_sooner_or_later(runtime: Runtime, move: Move) -> None:
    job_id = submit(runtime.ledger, start_within_s=120.0).id
    for by_ms in (DAYS_MS, -2 * DAYS_MS):
        move(by_ms)
        take_steps(runtime)
        pass_time(runtime, move, 40)
        assert runtime.ledger.jobs.get(job_id).status == QUEUED
        left_s = ((runtime.ledger.requeue.nearest_deadline_ms() or 0) - now_ms()) / 1000
        assert 0 < left_s < 121
    pass_time(runtime, move, 50)
    assert runtime.ledger.jobs.get(job_id).status == "expired", "in the end it comes"


def test_set_back_no_job_is_overtaken(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    first = submit(runtime.ledger).id
    # In the next millisecond, at least.
    time.sleep(0.01)
    second = submit(runtime.ledger).id
    move(-DAYS_MS)
    third = submit(runtime.ledger).id
    take_steps(runtime)
    heartbeat(runtime.ledger)
    claims = [runtime.ledger.claims.claim(NAME) for _ in range(3)]
    assert [claim.job_id for claim in claims if claim is not None] == [first, second, third]


def test_set_ahead_a_delivery_has_the_time_it_had(runtime: Runtime, move: Move) -> None:
    delivering, ended = generated(runtime.ledger), succeeded(runtime.ledger)
    (before, ended_before) = (generated_at(runtime, claim.job_id) for claim in (delivering, ended))
    move(DAYS_MS)
    take_steps(runtime)
    assert abs(generated_at(runtime, delivering.job_id) - before - DAYS_MS) < 60_000
    assert generated_at(runtime, ended.job_id) == ended_before


def generated_at(runtime: Runtime, job_id: str) -> int:
    with runtime.ledger.database.read() as connection:
        found: int = connection.execute(select(jobs.c.generated_at_ms).where(jobs.c.id == job_id)).scalar_one()
        return found


def test_a_gpu_is_well_again_with_its_next_heartbeat(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    for by in (DAYS_MS, -2 * DAYS_MS):
        move(by)
        take_steps(runtime)
        assert heartbeat(runtime.ledger)
        assert state_of(runtime.ledger) == HEALTHY
        assert runtime.ledger.instances.catalogues()


def test_set_back_the_dead_do_not_look_alive(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    claim = claimed(runtime.ledger, NAME)
    move(-DAYS_MS)
    take_steps(runtime)
    pass_time(runtime, move, SILENCE_MS / 1000 + 1)
    assert state_of(runtime.ledger) == "lost"
    assert runtime.ledger.jobs.get(claim.job_id).status == QUEUED, "its lease is not one of days"


def test_set_back_nothing_waits_for_days(runtime: Runtime, move: Move) -> None:
    delivering = generated(runtime.ledger)
    told = succeeded(runtime.ledger, webhook=WEBHOOK)
    with runtime.ledger.database.write() as transaction:
        in_a_minute = now_ms() + 60_000
        transaction.connection.execute(update(deliveries).values(next_try_at_ms=in_a_minute))
    move(-DAYS_MS)
    take_steps(runtime)
    assert runtime.ledger.outputs.overdue() == []
    pass_time(runtime, move, 90)
    with runtime.ledger.database.read() as connection:
        touched = connection.execute(select(jobs.c.updated_at_ms).where(jobs.c.id == delivering.job_id)).scalar_one()
    assert abs(touched - now_ms()) < 90_000, "the reconciler sent it on again"
    assert runtime.ledger.outbox.jobs_due() == [told.job_id]


def test_set_back_a_wait_is_not_estimated_in_days(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    claimed(runtime.ledger, NAME)
    waiting = submit(runtime.ledger)
    move(-DAYS_MS)
    heartbeat(runtime.ledger)
    outlook = runtime.ledger.outlook.read()
    starts_in_s = outlook.place(*outlook.indexes[waiting.id]).starts_in_s
    assert starts_in_s is not None
    assert starts_in_s < 3600


def test_a_host_whose_clock_is_ahead_is_heard(runtime: Runtime, move: Move) -> None:
    move(600_000)
    come_up(runtime.ledger)
    move(-600_000)
    assert state_of(runtime.ledger) == HEALTHY
    assert runtime.ledger.instances.catalogues()


def test_what_is_noted_of_the_clock_may_be_anything(runtime: Runtime) -> None:
    with runtime.ledger.database.write() as transaction:
        transaction.connection.execute(update(facts).where(facts.c.name == "clock").values(value="?"))
    take_steps(runtime)
    assert runtime.ledger.timekeeping.look() < 60


def test_postgresql_tells_the_time(postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clock for all machines of a fleet: what one of them believes counts for nothing."""
    monkeypatch.setattr(clock, "ledger_clock", ledger_clock)
    ledger = Ledger(postgres_settings)
    ledger.instances.all()
    right_ms = now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    ledger.instances.all()
    assert abs(now_ms() - right_ms) < 60_000
    ledger.close()


@pytest.mark.parametrize("wall_ns", [0, 10**19], ids=["behind", "ahead"])
def test_a_key_ends_by_the_servers_clock_whatever_its_host_believes(
    postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch, wall_ns: int
) -> None:
    """Hosts of the API whose clocks are centuries apart let the same keys in."""
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns)
    ledger = Ledger(postgres_settings)
    ring = KeyRing(postgres_settings, ledger.keys)
    _, good = ledger.keys.create("default", name="good", scopes=("read",), ends_in_s=3600)
    _, short = ledger.keys.create("default", name="short", scopes=("read",), ends_in_s=1)

    assert ring.caller(good, "") is not None
    assert eventually(lambda: ring.caller(short, "") is None)
    assert ring.caller(good, "") is not None
    ledger.close()


def test_a_catalogue_that_is_used_outlives_its_first_instance(runtime: Runtime, move: Move) -> None:
    come_up(runtime.ledger)
    (digest,) = runtime.ledger.instances.known_catalogues()
    move(DAYS_MS)
    heartbeat(runtime.ledger)
    runtime.ledger.instances.forget_silent()
    with runtime.ledger.database.read() as connection:
        assert connection.execute(select(catalogues.c.digest)).scalars().all() == [digest]


def test_a_forgotten_row_is_no_row_of_its_worker(runtime: Runtime) -> None:
    come_up(runtime.ledger)
    with runtime.ledger.database.write() as transaction:
        transaction.connection.execute(delete(instances))
    assert not heartbeat(runtime.ledger)


# What goes by this machine's clock.


def test_a_wall_clock_that_was_set_is_noticed(move: Move) -> None:
    wall = WallClock()
    assert not wall.was_set_within(3600)
    for by in (DAYS_MS, -DAYS_MS):
        move(by)
        assert wall.was_set_within(3600)
    move(1_000)
    assert not wall.was_set_within(0)


def test_files_of_a_running_prompt_do_not_become_old_at_once(sqlite_settings: Settings, move: Move) -> None:
    (spec,) = plan_instances(sqlite_settings.model_copy(update={"simulated_gpus": 1}))
    housekeeper = Housekeeper(sqlite_settings, Instance(spec))
    file = spec.data_dir / "input" / "a.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"a")
    move(DAYS_MS)
    # How old a new file looks to a clock that is days ahead.
    begun_s = time.time() - DAYS_MS / 1000
    os.utime(file, (begun_s, begun_s))
    housekeeper.keep(list)
    assert file.exists()


@pytest.mark.parametrize("by", [timedelta(days=3), timedelta(days=-3)])
def test_beat_ticks_on_when_the_clock_is_set(
    sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: timedelta
) -> None:
    app = make_app(sqlite_settings.model_copy(update={"reconcile_s": 0.1}), "beat")
    beat = app.Beat()
    service = beat.Service(app, scheduler_cls=app.conf.beat_scheduler, schedule_filename=str(tmp_path / "schedule"))
    scheduler = service.get_scheduler(lazy=True)
    assert isinstance(scheduler, TickScheduler)
    published: list[str] = []
    monkeypatch.setattr(scheduler, "apply_entry", lambda entry, **_options: published.append(entry.name))
    # There is no broker to connect with.
    monkeypatch.setitem(vars(scheduler), "producer", None)
    scheduler.setup_schedule()

    def ticks(count: int) -> bool:
        published.clear()
        return eventually(lambda: scheduler.tick() is not None and published.count("reconcile") >= count)

    assert ticks(2)
    right = app.now
    monkeypatch.setattr(app, "now", lambda: right() + by)
    assert ticks(3)
    scheduler.close()


def test_a_last_tick_in_the_future_is_no_reason_to_wait(sqlite_settings: Settings) -> None:
    app = make_app(sqlite_settings, "beat")
    entry = app.conf.beat_schedule["reconcile"]
    assert "expires" not in entry["options"]
    ticks = entry["schedule"]
    assert isinstance(ticks, Ticks)
    for ago, is_due in ((timedelta(days=-2), True), (timedelta(0), False), (timedelta(days=2), True)):
        assert ticks.is_due(ticks.now() - ago).is_due is is_due
