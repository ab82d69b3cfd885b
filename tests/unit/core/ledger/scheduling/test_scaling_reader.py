"""What pools have and want, as the ledger tells; and hosts that are given back, at every step of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from core.ledger import Ledger
from core.ledger.database.tables import instances
from core.ledger.instances import DRAINING, HEALTHY, QUARANTINED, STOPPED
from core.ledger.scheduling.scaling_reader import HISTORY, SETTLED_MS, FleetScale, LeavingHost
from core.records.requirements import Requirements
from core.settings import Settings
from tests.ledger_moves import claimed, generated, stored, submit, succeeded
from tests.makers import StoppedClock

WINDOW_S = 60.0


@pytest.fixture
def ledger(sqlite_settings: Settings, clock: StoppedClock) -> Iterator[Ledger]:
    """A fleet whose pool without a label has up to four GPUs, and the pool `big` up to two."""
    pools = (("-", 0, 4), ("big", 0, 2))
    settings = sqlite_settings.model_copy(update={"autoscale_pools": pools, "autoscale_idle_s": WINDOW_S})
    found = Ledger(settings)
    yield found
    found.close()


def come(ledger: Ledger, *names: str, pool: str | None = None, **fields: Any) -> None:
    for name in names:
        told = {"host": name.partition("@")[2], "worker": f"w-{name}", "kind": "simulator", "gpu": "0", "pool": pool}
        ledger.instances.register(**{"name": name, **told, **fields})
        ledger.instances.up(
            name, worker=f"w-{name}", url="http://127.0.0.1:1", output_dir=None, version="1", device="d",
            object_info={}, restarts=0, pool=pool,
        )  # fmt: skip


def beat(ledger: Ledger, name: str, state: str = HEALTHY, *, is_drained: bool = False) -> None:
    ledger.instances.heartbeat(name, worker=f"w-{name}", state=state, reason=None, is_drained=is_drained, restarts=0)


def set_row(ledger: Ledger, name: str, **values: Any) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(instances).where(instances.c.name == name).values(**values))


def look(ledger: Ledger) -> FleetScale:
    return ledger.scaling.read(ledger.outlook.read())


def watch(ledger: Ledger, clock: StoppedClock, seconds: float) -> FleetScale:
    """Have the reconciler look every five seconds; returns what it saw last. All workers are heard meanwhile."""
    scale = look(ledger)
    for _ in range(int(seconds / 5)):
        clock.pass_ms(5_000)
        for each in ledger.instances.all():
            set_row(ledger, each.name, heartbeat_at_ms=clock.now_ms)
        scale = ledger.scaling.remember(ledger.outlook.read())
    return scale


class TestPools:
    def test_what_each_has(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, "gpu0@a", "gpu1@a", "gpu0@b", "gpu0@c", "gpu0@d", "gpu0@e")
        come(ledger, "gpu0@f", pool="big")
        claimed(ledger, "gpu0@a")
        beat(ledger, "gpu0@b", QUARANTINED)
        beat(ledger, "gpu0@c", DRAINING, is_drained=True)
        set_row(ledger, "gpu0@d", state="starting")
        set_row(ledger, "gpu0@e", heartbeat_at_ms=clock.now_ms - 60_000)

        found = look(ledger).pools

        own = found["-"]
        assert (own.ready, own.busy, own.starting, own.away, own.idle) == (2, 1, 1, 2, 1)
        assert (own.here, own.demand.needed) == (3, 1)
        # Two of those that are there serve nothing.
        assert own.replicas == own.wanted.gpus + 2
        assert found["big"].ready == 1

    def test_one_that_crashed_counts_as_starting(self, ledger: Ledger) -> None:
        come(ledger, "gpu0@a", "gpu0@b")
        for name in ("gpu0@a", "gpu0@b"):
            ledger.instances.down(name, worker=f"w-{name}", state="unhealthy", reason="Storage is away.")
        submit(ledger, expected_time_s=10.0)
        found = look(ledger).pools["-"]
        # No host is started because all of them cannot reach their files.
        assert (found.starting, found.away, found.wanted.gpus, found.replicas) == (2, 0, 2, 2)

    def test_what_waits_goes_to_the_pool_that_it_requires(self, ledger: Ledger, clock: StoppedClock) -> None:
        submit(ledger, requires=Requirements(pool="big"), expected_time_s=100.0)
        submit(ledger, expected_time_s=10.0)
        clock.pass_ms(7_000)

        found = look(ledger)

        assert found.pools["big"].demand.run_s == 100.0
        assert found.pools["big"].demand.oldest_s == 7.0
        assert found.pools["-"].demand.run_s == 10.0
        assert (found.pools["big"].wanted.gpus, found.pools["-"].wanted.gpus) == (1, 1)
        assert found.homeless == 0

    def test_a_pool_that_no_setting_names_wants_what_it_has(self, ledger: Ledger) -> None:
        come(ledger, "gpu0@x", pool="other")
        submit(ledger, requires=Requirements(pool="other"), expected_time_s=1_000.0)
        submit(ledger, requires=Requirements(pool="other"), expected_time_s=1_000.0)

        found = look(ledger).pools["other"]

        assert (found.limits.most, found.wanted.gpus) == (1, 1)

    def test_idle_since_the_last_job_or_since_it_came(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, "gpu0@here")
        clock.pass_ms(4_000)
        assert look(ledger).pools["-"].longest_idle_s == 4.0
        succeeded(ledger)
        # Its worker looks for the next job, and finds none.
        assert ledger.claims.claim("gpu0@here") is None
        clock.pass_ms(9_000)
        assert look(ledger).pools["-"].longest_idle_s == 9.0

    def test_gpus_are_given_up_after_the_window(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, "gpu0@a", "gpu0@b", "gpu0@c")
        found = watch(ledger, clock, WINDOW_S - 5)
        assert (found.pools["-"].wanted.gpus, found.pools["-"].to_leave) == (3, ())
        found = watch(ledger, clock, 10)
        assert found.pools["-"].wanted.gpus == 0
        assert [each.host for each in found.pools["-"].to_leave] == ["a", "b", "c"]

    def test_without_a_look_for_a_while_none_is(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, "gpu0@a")
        watch(ledger, clock, WINDOW_S + 10)
        clock.pass_ms(31_000)
        set_row(ledger, "gpu0@a", heartbeat_at_ms=clock.now_ms)
        assert look(ledger).pools["-"].wanted.gpus == 1

    @pytest.mark.parametrize("text", ["", "x", "[]", '{"-": 3}', '{"-": {"since_s": 1}}'])
    def test_what_another_version_noted_is_no_error(self, ledger: Ledger, text: str) -> None:
        ledger.facts.mark(HISTORY, text)
        assert look(ledger).pools["-"].wanted.gpus == 0


class TestLeaving:
    @pytest.fixture
    def host(self, ledger: Ledger, clock: StoppedClock) -> str:
        come(ledger, "gpu0@here", "gpu1@here")
        return "here"

    def left(self, ledger: Ledger) -> LeavingHost:
        [found] = ledger.scaling.leaving()
        return found

    def drain(self, ledger: Ledger) -> None:
        for name in ("gpu0@here", "gpu1@here"):
            beat(ledger, name, DRAINING, is_drained=True)

    def settle(self, ledger: Ledger, clock: StoppedClock) -> None:
        clock.pass_ms(SETTLED_MS)

    def test_from_the_note_on_it_claims_nothing(self, ledger: Ledger, host: str) -> None:
        submit(ledger)
        ledger.instances.leave([host])
        assert ledger.claims.claim("gpu0@here") is None
        assert look(ledger).pools["-"].leaving == 2
        assert look(ledger).pools["-"].here == 0

    def test_it_may_go_when_its_workers_have_said_so(self, ledger: Ledger, clock: StoppedClock, host: str) -> None:
        ledger.instances.leave([host])
        self.settle(ledger, clock)
        assert not self.left(ledger).may_go
        assert "may still take jobs" in self.left(ledger).reason
        self.drain(ledger)
        found = self.left(ledger)
        assert (found.may_go, found.gpus) == (True, ("gpu0@here", "gpu1@here"))

    def test_not_before_a_claim_under_way_has_ended(self, ledger: Ledger, host: str) -> None:
        ledger.instances.leave([host])
        self.drain(ledger)
        assert self.left(ledger).reason == "It has just stopped to take jobs."

    def test_not_while_it_runs_a_job(self, ledger: Ledger, clock: StoppedClock, host: str) -> None:
        claim = claimed(ledger)
        ledger.instances.leave([host])
        self.drain(ledger)
        self.settle(ledger, clock)
        assert (self.left(ledger).may_go, self.left(ledger).running) == (False, 1)
        ledger.claims.generated(claim, [], outputs_reused=False)
        # Nothing was made, but the io worker of this host has to say so.
        assert (self.left(ledger).may_go, self.left(ledger).storing) == (False, 1)

    def test_not_while_files_lie_on_it(self, ledger: Ledger, clock: StoppedClock, host: str) -> None:
        claim = generated(ledger)
        ledger.instances.leave([host])
        self.drain(ledger)
        self.settle(ledger, clock)
        assert "Files of 1 job still lie on it." in self.left(ledger).reason
        pending = ledger.outputs.pending(claim.job_id, claim.attempt).files
        ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(file) for file in pending])
        assert self.left(ledger).may_go

    def test_one_whose_workers_died_may_go_when_its_jobs_were_taken_back(
        self, ledger: Ledger, clock: StoppedClock, host: str
    ) -> None:
        claimed(ledger)
        ledger.instances.leave([host])
        clock.pass_ms(30_000)
        assert not self.left(ledger).may_go
        ledger.requeue.take_back_lapsed()
        assert self.left(ledger).may_go

    def test_to_say_it_twice_changes_nothing(self, ledger: Ledger, clock: StoppedClock, host: str) -> None:
        ledger.instances.leave([host])
        before = self.left(ledger)
        clock.pass_ms(5_000)
        ledger.instances.leave([host])
        assert dataclasses.replace(self.left(ledger), reason="") == dataclasses.replace(before, reason="")

    def test_an_operator_may_keep_it(self, ledger: Ledger, host: str) -> None:
        submit(ledger)
        ledger.instances.leave([host])
        for name in ("gpu0@here", "gpu1@here"):
            ledger.instances.stay(name)
        assert ledger.scaling.leaving() == []
        assert ledger.claims.claim("gpu0@here") is not None

    def test_a_host_that_comes_back_takes_jobs(self, ledger: Ledger, host: str) -> None:
        ledger.instances.leave([host])
        self.drain(ledger)
        for name in ("gpu0@here", "gpu1@here"):
            ledger.instances.down(name, worker=f"w-{name}", state=STOPPED, reason="x")
        come(ledger, "gpu0@here")
        submit(ledger)
        assert ledger.claims.claim("gpu0@here") is not None
        assert look(ledger).pools["-"].here == 1

    def test_a_new_machine_of_that_name_takes_jobs_although_the_old_one_was_cut_off(
        self, ledger: Ledger, clock: StoppedClock
    ) -> None:
        come(ledger, "gpu0@here", place="boot-1 /data")
        ledger.instances.leave(["here"])
        beat(ledger, "gpu0@here", DRAINING, is_drained=True)
        clock.pass_ms(60_000)
        over = ledger.instances.owner_of("gpu0@here")
        drained = ledger.instances.register(
            name="gpu0@here", host="here", worker="new", kind="simulator", gpu="0", place="boot-2 /data", over=over
        )
        assert drained is False
        assert ledger.scaling.leaving() == []

    def test_a_worker_that_died_and_came_back_while_its_host_leaves_does_not(self, ledger: Ledger) -> None:
        come(ledger, "gpu0@here", place="boot-1 /data")
        ledger.instances.leave(["here"])
        beat(ledger, "gpu0@here", DRAINING, is_drained=True)
        drained = ledger.instances.register(
            name="gpu0@here", host="here", worker="new", kind="simulator", gpu="0", place="boot-1 /data"
        )
        assert drained is True
        assert [each.host for each in ledger.scaling.leaving()] == ["here"]
