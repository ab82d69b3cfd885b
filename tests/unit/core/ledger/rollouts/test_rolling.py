"""What a rollout does next: turns, what is wanted of processes, and when it stops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.ledger.rollouts.rolling import Plan, hosts_of, plan
from core.records.rollout import (
    ANEW,
    COMMAND_OK,
    DRAIN,
    UPGRADE,
    Expected,
    FleetGpuState,
    FleetProcess,
    HostState,
    Outcome,
    Rollout,
    RolloutHost,
)

NOW = 1_000_000
OLD, NEW = "1.0.0", "2.0.0"


def gpu(host: str, worker: str, *, state: str = "healthy", program: str = OLD, **fields: Any) -> FleetProcess:
    values = {"is_drained": False, "has_jobs": False, "is_warmed_up": False, **fields}
    seen = FleetGpuState(name=f"gpu0@{host}", state=state, **values)
    return FleetProcess(id=worker, role="gpu", host=host, program=program, can_upgrade=False, renewal=None, gpu=seen)


def process(host: str, name: str, role: str = "io", *, program: str = OLD, can_upgrade: bool = False) -> FleetProcess:
    return FleetProcess(id=name, role=role, host=host, program=program, can_upgrade=can_upgrade, renewal=None)


def rollout(*hosts: RolloutHost, **fields: Any) -> Rollout:
    values: dict[str, Any] = {"kind": "restart", "version": None, "at_once": 1, "timeout_s": 60.0, "max_failures": 0.2}
    values |= {"watch_s": 30.0, "created_at_ms": 0, "looked_at_ms": 0, "ended_at_ms": None, "state": "running"}
    return Rollout(id="r", reason=None, hosts=hosts, **(values | fields))


def host(name: str, state: HostState = "waiting", *, position: int = 0, **fields: Any) -> RolloutHost:
    return RolloutHost(position=position, host=name, state=state, **fields)


def turn(name: str, state: HostState, **fields: Any) -> RolloutHost:
    """A host whose turn began with one healthy GPU, whose worker is `old`."""
    expects = fields.pop("expects", Expected(before=frozenset({"old"}), gpus={f"gpu0@{name}": True}))
    return host(name, state, **{"expects": expects, "began_at_ms": NOW, "moved_at_ms": NOW, **fields})


def after(found: Plan, start: Rollout) -> Rollout:
    changed = {each.position: each for each in found.hosts}
    hosts = tuple(changed.get(each.position, each) for each in start.hosts)
    return replace(start, state=found.state, reason=found.reason, hosts=hosts)


def states(found: Plan, start: Rollout) -> dict[str, str]:
    return {each.host: each.state for each in after(found, start).hosts}


class TestTurns:
    def test_the_first_host_goes_alone_however_many_may_go_at_once(self) -> None:
        start = rollout(*(host(name, position=place) for place, name in enumerate("abc")), at_once=3)
        found = plan(start, [gpu(name, f"w-{name}") for name in "abc"], [], NOW)
        assert states(found, start) == {"a": "renewing", "b": "waiting", "c": "waiting"}
        assert found.orders == {"w-a": ANEW}

    def test_then_as_many_as_were_asked_for(self) -> None:
        names = [host("a", "done"), *(host(name, position=1 + place) for place, name in enumerate("bcd"))]
        start = rollout(*names, at_once=2)
        found = plan(start, [gpu(name, f"w-{name}") for name in "abcd"], [], NOW)
        assert states(found, start) == {"a": "done", "b": "renewing", "c": "renewing", "d": "waiting"}

    def test_one_on_which_nothing_runs_is_waited_for_then_skipped_and_holds_nobody_up(self) -> None:
        start = rollout(host("gone"), host("a", position=1))
        found = plan(start, [gpu("a", "w")], [], NOW)
        assert states(found, start) == {"gone": "waiting", "a": "renewing"}
        begun = after(found, start)
        assert states(plan(begun, [gpu("a", "w")], [], NOW + 59_999), begun)["gone"] == "waiting"
        one = rollout(*(each for each in begun.hosts if each.host == "gone"))
        found = plan(one, [], [], NOW + 60_000)
        assert (found.state, found.hosts[0].state) == ("done", "skipped")
        back = plan(one, [gpu("gone", "w2")], [], NOW + 59_999)
        assert back.hosts[0].state == "renewing"

    def test_when_all_have_had_theirs_it_is_done(self) -> None:
        found = plan(rollout(host("a", "done"), host("b", "skipped", position=1)), [], [], NOW)
        assert found.state == "done"

    def test_an_order_is_not_given_again_and_is_taken_back_when_nothing_is_wanted(self) -> None:
        ordered = replace(gpu("a", "old"), renewal=ANEW)
        assert plan(rollout(turn("a", "renewing")), [ordered], [], NOW).orders == {}
        assert plan(rollout(turn("a", "done")), [ordered], [], NOW).orders == {"old": None}

    def test_hosts_without_gpus_come_last(self) -> None:
        found = [process("api", "1", "api"), gpu("z", "2"), gpu("b", "3"), process("b", "4")]
        assert hosts_of(found, []) == ["b", "z", "api"]
        assert hosts_of(found, ["z", "api", "z"]) == ["z", "api"]


class TestRenewing:
    def test_a_healthy_gpu_that_is_another_worker_is_back(self) -> None:
        start = rollout(turn("a", "renewing"))
        assert plan(start, [gpu("a", "old", state="draining")], [], NOW).hosts == ()
        assert plan(start, [gpu("a", "new", state="starting")], [], NOW).hosts == ()
        found = plan(start, [gpu("a", "new")], [], NOW)
        assert states(found, start) == {"a": "watched"}
        assert found.hosts[0].back_at_ms == NOW

    @pytest.mark.parametrize("role", ["io", "api", "beat"])
    def test_its_other_processes_have_to_be_back_too(self, role: str) -> None:
        expects = Expected(before=frozenset({"old", "p"}), gpus={"gpu0@a": True}, roles=frozenset({role}))
        start = rollout(turn("a", "renewing", expects=expects))
        back = gpu("a", "new")
        old = process("a", "p", role)
        assert plan(start, [back, old], [], NOW).orders == {"p": ANEW}
        assert plan(start, [back], [], NOW).hosts == (), "it is on its way"
        assert plan(start, [back, process("a", "q", role), old], [], NOW).hosts == (), "one of two is still the old one"
        assert states(plan(start, [back, process("a", "q", role)], [], NOW), start) == {"a": "watched"}

    def test_what_was_not_healthy_before_only_has_to_be_there(self) -> None:
        start = rollout(host("a"))
        begun = after(plan(start, [gpu("a", "old", state="quarantined")], [], NOW), start)
        assert states(plan(begun, [gpu("a", "new", state="unhealthy")], [], NOW), begun) == {"a": "watched"}

    def test_one_that_an_operator_drains_meanwhile_holds_nobody_up(self) -> None:
        start = rollout(turn("a", "renewing"))
        found = plan(start, [gpu("a", "new", state="draining", is_drained=True)], [], NOW)
        assert states(found, start) == {"a": "watched"}

    def test_one_that_does_not_come_back_stops_it_and_is_named(self) -> None:
        start = rollout(turn("a", "renewing"), host("b", position=1))
        late = NOW + 60_000
        assert plan(start, [], [], late - 1).state == "running"
        found = plan(start, [gpu("b", "w-b")], [], late)
        assert (found.state, states(found, start)) == ("stopped", {"a": "failed", "b": "waiting"})
        assert found.reason == "a: It has not come back healthy (missing: gpu0@a) within 60 s."

    def test_a_job_has_all_the_time_it_needs(self) -> None:
        start = rollout(turn("a", "renewing"))
        busy = gpu("a", "old", state="draining", has_jobs=True)
        found = plan(start, [busy], [], NOW + 3_600_000)
        assert (found.state, found.hosts[0].moved_at_ms) == ("running", NOW + 3_600_000)

    def test_another_hosts_turn_that_was_under_way_comes_again(self) -> None:
        start = rollout(turn("a", "renewing"), replace(turn("b", "renewing"), position=1), at_once=2)
        waits = replace(gpu("b", "old", state="draining", has_jobs=True), renewal=ANEW)
        found = plan(start, [waits], [], NOW + 60_000)
        assert states(found, start) == {"a": "failed", "b": "waiting"}
        assert found.orders == {"old": None}, "it takes jobs again"


class TestWatching:
    def test_after_a_warm_up_it_is_done(self) -> None:
        start = rollout(turn("a", "watched", back_at_ms=NOW))
        assert states(plan(start, [gpu("a", "new", is_warmed_up=True)], [], NOW), start) == {"a": "done"}

    def test_without_one_it_is_watched_for_a_while(self) -> None:
        start = rollout(turn("a", "watched", back_at_ms=NOW))
        assert plan(start, [gpu("a", "new")], [], NOW + 29_999).hosts == ()
        found = plan(start, [gpu("a", "new")], [], NOW + 30_000)
        assert (found.state, states(found, start)) == ("done", {"a": "done"})

    @pytest.mark.parametrize(("state", "word"), [("unhealthy", "unhealthy"), (None, "gone")])
    def test_one_that_fails_again_stops_it(self, state: str | None, word: str) -> None:
        start = rollout(turn("a", "watched", back_at_ms=NOW))
        found = plan(start, [] if state is None else [gpu("a", "new", state=state)], [], NOW)
        assert (found.state, found.reason) == ("stopped", f"a: gpu0@a was healthy again, and then {word}.")


class TestFailures:
    def outcomes(self, name: str, *, good: int, bad: int, at_ms: int = NOW) -> list[Outcome]:
        return [Outcome(instance=f"gpu0@{name}", at_ms=at_ms, is_failure=each < bad) for each in range(good + bad)]

    def start(self) -> Rollout:
        return rollout(turn("a", "done", back_at_ms=NOW), host("b", position=1))

    def found(self, outcomes: list[Outcome]) -> Plan:
        return plan(self.start(), [gpu("b", "w-b")], outcomes, NOW)

    def test_too_many_on_renewed_hosts_stop_it(self) -> None:
        found = self.found(self.outcomes("a", good=7, bad=3))
        assert (found.state, states(found, self.start())) == ("stopped", {"a": "done", "b": "waiting"})
        assert found.reason == "Of 10 attempts on renewed hosts 3 failed or were lost (30%; 0% on the others)."

    @pytest.mark.parametrize(("good", "bad"), [(0, 2), (12, 3), (5, 0)])
    def test_few_do_not(self, good: int, bad: int) -> None:
        assert self.found(self.outcomes("a", good=good, bad=bad)).state == "running"

    def test_nor_as_many_as_fail_everywhere(self) -> None:
        everywhere = self.outcomes("a", good=6, bad=4) + self.outcomes("b", good=6, bad=4)
        assert self.found(everywhere).state == "running"

    def test_nor_those_of_before_it_was_renewed(self) -> None:
        assert self.found(self.outcomes("a", good=0, bad=9, at_ms=NOW - 1)).state == "running"


class TestUpgrades:
    def start(self, state: HostState = "waiting", **fields: Any) -> Rollout:
        expects = Expected(
            before=frozenset({"old", "io"}),
            gpus={"gpu0@a": True},
            roles=frozenset({"io"}),
            runner=fields.pop("runner", None),
        )
        one = host("a") if state == "waiting" else turn("a", state, expects=expects, **fields)
        return rollout(one, kind="upgrade", version=NEW)

    def test_gpus_come_to_rest_first(self) -> None:
        start = self.start()
        old = [gpu("a", "old", has_jobs=True), process("a", "io", can_upgrade=True)]
        found = plan(start, old, [], NOW)
        assert (states(found, start), found.orders) == ({"a": "draining"}, {"old": DRAIN})
        begun = after(found, start)
        for still in (gpu("a", "old"), gpu("a", "old", state="draining", has_jobs=True)):
            assert states(plan(begun, [still, old[1]], [], NOW), begun) == {"a": "draining"}

    def test_then_one_process_runs_the_command_of_its_host(self) -> None:
        start = self.start("draining")
        rests = gpu("a", "old", state="draining")
        found = plan(start, [rests, process("a", "io", can_upgrade=True)], [], NOW)
        assert (states(found, start), found.orders) == ({"a": "upgrading"}, {"old": DRAIN, "io": UPGRADE})

    def test_what_it_has_brought_is_started(self) -> None:
        start = self.start("upgrading", command=COMMAND_OK, runner="io")
        rests = gpu("a", "old", state="draining")
        found = plan(start, [rests, process("a", "io")], [], NOW)
        assert (states(found, start), found.orders) == ({"a": "renewing"}, {"old": ANEW, "io": ANEW})
        begun = after(found, start)
        again = plan(start, [gpu("a", "restarted", state="draining")], [], NOW)
        assert again.orders == {"restarted": ANEW}, "one that crashed meanwhile has the old code"
        back = [gpu("a", "new", program=NEW), process("a", "io2", program=NEW)]
        assert states(plan(begun, back, [], NOW), begun) == {"a": "watched"}

    @pytest.mark.parametrize(
        ("fields", "living", "reason"),
        [
            ({"command": "It broke.", "runner": "io"}, ["io"], "a: It broke."),
            ({"runner": "io"}, [], "a: The process that ran COMFYLINE_UPGRADE_COMMAND ended in the middle of it."),
        ],
    )
    def test_a_command_that_fails_stops_it(self, fields: dict[str, Any], living: list[str], reason: str) -> None:
        start = self.start("upgrading", **fields)
        found = plan(start, [process("a", each) for each in living], [], NOW)
        assert (found.state, found.reason) == ("stopped", reason)

    def test_one_that_comes_back_with_another_version_stops_it(self) -> None:
        start = self.start("renewing")
        found = plan(start, [gpu("a", "new", program=OLD)], [], NOW)
        assert found.reason == f"a: It came back with version {OLD}, and not {NEW}."

    def test_a_host_without_a_command_waits_for_who_brings_it(self) -> None:
        start = self.start("draining")
        found = plan(start, [gpu("a", "old", state="draining"), process("a", "io")], [], NOW)
        assert (states(found, start), found.orders) == ({"a": "replacing"}, {"old": DRAIN})
        waiting = after(found, start)
        # One that crashed meanwhile is still the old one.
        assert plan(waiting, [gpu("a", "again")], [], NOW).orders == {"again": DRAIN}
        back = [gpu("a", "new", program=NEW), process("a", "io2", program=NEW)]
        assert states(plan(waiting, back, [], NOW), waiting) == {"a": "watched"}
        late = plan(waiting, [gpu("a", "old", state="draining")], [], NOW + 60_000)
        assert "Nobody has brought version 2.0.0" in str(late.reason)

    def test_one_that_has_the_version_is_skipped(self) -> None:
        start = self.start()
        found = plan(start, [gpu("a", "w", program=NEW), process("a", "io", program=NEW)], [], NOW)
        assert (found.state, states(found, start)) == ("done", {"a": "skipped"})
