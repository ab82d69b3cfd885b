"""Gates: their free slots, and forecasts of jobs that go through them."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.ahead import Ahead, run_ahead
from core.scheduling.forecast import Forecast, forecast
from core.scheduling.gates import Gate, GateKey, Slots, closed_gate
from core.scheduling.lines import Gpu, Line
from core.scheduling.next_jobs import next_of_each, next_sentence
from core.scheduling.picture import FleetGpu, Picture, WaitingLine
from tests.unit.core.scheduling.random_fleets import QUICK

ACME, SEEDS = GateKey("tenant", "acme"), GateKey("batch", "b1")


def gate(key: GateKey = ACME, most: int | None = 2, running: int = 0, *, is_paused: bool = False) -> Gate:
    return Gate(key=key, most=most, running=running, is_paused=is_paused)


def line(line_id: int, *gates: Gate, waiting: int = 1, since_s: float = 0.0, **more: object) -> WaitingLine:
    fields: dict[str, object] = {"id": line_id, "waiting": waiting, "since_s": since_s, "run_s": 4.0, **more}
    return WaitingLine(line=Line(**fields), gates=gates)  # type: ignore[arg-type]


def gpus(count: int) -> list[FleetGpu]:
    return [FleetGpu(name=f"gpu{number}@a") for number in range(count)]


def at_work(name: str, free_s: float, *slots: GateKey) -> FleetGpu:
    return FleetGpu(name=name, gpu=Gpu(free_s=free_s), busy=True, slots=slots)


def told(lines: list[WaitingLine], fleet: list[FleetGpu]) -> Forecast:
    return forecast(Picture(now_s=100.0, lines=tuple(lines), gpus=tuple(fleet)))


class TestSlots:
    def test_a_gate_is_closed_while_as_many_run_as_may(self) -> None:
        slots = Slots({1: (gate(running=1),), 2: (gate(running=1),), 3: ()})
        assert [slots.is_open(line_id) for line_id in (1, 2, 3, 4)] == [True] * 4
        assert set(slots.take(1)) == {1, 2}
        assert [slots.is_open(line_id) for line_id in (1, 2, 3)] == [False, False, True]
        assert set(slots.give_back([ACME])) == {1, 2}
        assert slots.is_open(2)

    def test_a_line_is_open_where_all_its_gates_are(self) -> None:
        slots = Slots({1: (gate(most=5), gate(SEEDS, most=1)), 2: (gate(most=5),)})
        assert set(slots.take(1)) == {1}
        assert slots.is_open(2)
        slots.take(2)
        assert set(slots.give_back([SEEDS])) == {1}

    def test_one_gate_that_opens_leaves_another_closed(self) -> None:
        slots = Slots({1: (gate(most=1, running=1), gate(SEEDS, most=1, running=1))})
        assert not slots.give_back([ACME])
        assert set(slots.give_back([SEEDS])) == {1}

    def test_more_than_may_run_have_to_end_first(self) -> None:
        slots = Slots({1: (gate(most=2, running=4),)})
        assert not slots.give_back([ACME])
        assert not slots.give_back([ACME])
        assert set(slots.give_back([ACME])) == {1}

    @pytest.mark.parametrize("shut", [gate(SEEDS, is_paused=True), gate(most=0), gate(most=0, running=1)])
    def test_one_that_is_shut_stays_so_whoever_ends(self, shut: Gate) -> None:
        slots = Slots({1: (shut,)})
        assert not slots.give_back([shut.key])
        assert not slots.is_open(1)

    def test_one_without_a_limit_lets_all_through(self) -> None:
        slots = Slots({1: (gate(SEEDS, most=None, running=9),)})
        assert not any(slots.take(1) for _ in range(99))
        assert not slots.give_back([SEEDS, ACME])
        assert slots.is_open(1)

    def test_the_gate_that_is_shut_is_told_before_one_that_is_full(self) -> None:
        full, paused = gate(running=2), gate(SEEDS, is_paused=True)
        assert closed_gate([full, paused]) == paused
        assert closed_gate([full, gate(SEEDS)]) == full
        assert closed_gate([gate(), gate(SEEDS, most=None)]) is None


class TestForecast:
    def test_jobs_begin_as_their_tenant_may_run_them(self) -> None:
        found = told([line(1, gate(most=2), waiting=5)], gpus(8))
        assert [found.place(1, index).starts_in_s for index in range(5)] == [0.0, 0.0, 4.0, 4.0, 8.0]
        assert found.sentence(1).endswith("takes it now.")
        assert found.sentence(1, 2) == "2 jobs like it go first."

    def test_a_full_gate_says_so_and_opens_when_a_job_that_went_through_it_ends(self) -> None:
        fleet = [at_work("gpu0@a", 30.0, ACME), at_work("gpu1@a", 10.0), *gpus(1)]
        found = told([line(1, gate(most=1, running=1), waiting=2)], fleet)
        assert [found.place(1, index).starts_in_s for index in range(2)] == [30.0, 34.0]
        assert found.reason(1).code == found.reason(1, 1).code == "tenant_full"
        assert found.sentence(1) == "Its tenant runs 1 of 1 job; gpu0@a takes it in about 30 s."
        assert found.sentence(1, 1) == "Its tenant runs 1 of 1 job; gpu0@a takes it in about 35 s."

    def test_whose_slot_comes_free_nobody_knows_when_is_told_without_a_time(self) -> None:
        found = told([line(1, gate(SEEDS, most=3, running=3))], gpus(2))
        assert (found.place(1).position, found.place(1).starts_in_s) == (None, None)
        assert found.sentence(1) == "Its batch runs 3 of 3 jobs."

    def test_a_paused_batch_has_no_place_and_holds_nobody_up(self) -> None:
        lines = [line(1, gate(SEEDS, is_paused=True), waiting=100), line(2, since_s=50.0)]
        found = told(lines, gpus(1))
        assert (found.place(1, 7).position, found.place(1, 7).starts_in_s) == (None, None)
        assert found.sentence(1, 7) == "Its batch is paused."
        assert (found.place(2).position, found.place(2).starts_in_s) == (1, 0.0)

    def test_a_paused_batch_has_no_place_beyond_the_horizon_either(self) -> None:
        lines = [line(1, gate(SEEDS, is_paused=True), waiting=10), line(2, waiting=1000)]
        found = forecast(Picture(now_s=100.0, lines=tuple(lines), gpus=tuple(gpus(1))), steps=5)
        assert found.place(1).position is None
        assert found.place(2, 999).position == 1000, "those behind the gate are not counted"

    def test_behind_a_gate_a_deadline_passes(self) -> None:
        late = line(1, gate(most=1, running=1), start_by_s=105.0)
        found = told([late], [at_work("gpu0@a", 9.0, ACME)])
        assert found.place(1).position is None

    def test_tenants_behind_closed_gates_take_no_turns(self) -> None:
        """One that used nothing, and may run nothing, is not waited for."""
        lines = [line(1, gate(is_paused=True), tenant="acme"), line(2, tenant="globex", since_s=9.0)]
        picture = Picture(now_s=100.0, lines=tuple(lines), gpus=tuple(gpus(1)), used_s={"globex": 1e6})
        assert [start.line_id for start in run_ahead(picture, steps=9, looks=999).starts] == [2]

    def test_a_gpu_that_idles_says_what_it_waits_for(self) -> None:
        picture = Picture(now_s=100.0, lines=(line(1, gate(is_paused=True)),), gpus=tuple(gpus(1)))
        found = next_of_each(picture, forecast(picture))["gpu0@a"]
        assert found.code == "gated"
        assert "may not begin now" in next_sentence(found, {})

    def test_work_behind_a_gate_is_no_backlog(self) -> None:
        """Many jobs of a paused batch wait for a model: that is no reason to load it for the one job that may begin."""
        batch = line(1, gate(SEEDS, is_paused=True), models="a", waiting=1000)
        holder = FleetGpu(name="gpu0@a", gpu=Gpu(holds=frozenset("a"), usual_load_s=15.0, free_s=1.0), busy=True)
        idle = FleetGpu(name="gpu1@a", gpu=Gpu(usual_load_s=15.0))
        found = told([batch, line(2, models="a")], [holder, idle])
        assert (found.reason(2).gpu, found.place(2).starts_in_s) == ("gpu0@a", 1.0)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Fleets that run anything, and up to six lines behind up to two gates each; some GPUs have jobs of theirs."""
    names = [ACME, GateKey("tenant", "globex"), SEEDS]
    count = draw(st.integers(1, 5))
    fleet = []
    for number in range(count):
        slots = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if draw(st.booleans()) else None
        free_s = draw(st.integers(1, 20)) / 2
        name = f"gpu{number}@a"
        fleet.append(FleetGpu(name=name) if slots is None else at_work(name, free_s, *slots))
    running = Counter(key for each in fleet for key in each.slots)
    limits = {
        key: Gate(
            key=key,
            most=draw(st.integers(1, 3) | st.none()),
            running=running[key],
            is_paused=key == SEEDS and draw(st.booleans()),
        )
        for key in names
    }
    lines = []
    for line_id in range(1, draw(st.integers(1, 6)) + 1):
        keys = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
        of_line = line(
            line_id,
            *(limits[key] for key in keys),
            waiting=draw(st.integers(1, 6)),
            since_s=float(draw(st.integers(0, 90))),
            priority=draw(st.sampled_from([0, 0, 1])),
            run_s=draw(st.integers(1, 12)) / 2,
        )
        lines.append(of_line)
    return Picture(now_s=100.0, lines=tuple(lines), gpus=tuple(fleet))


class TestAnyFleet:
    @QUICK
    @given(pictures())
    def test_no_gate_lets_more_through_than_it_may_and_no_gpu_idles_for_nothing(self, picture: Picture) -> None:
        ahead = run_ahead(picture, steps=500, looks=10**6)
        by_id = {each.line.id: each for each in picture.lines}
        gates = {gate.key: gate for each in picture.lines for gate in each.gates}
        running = Counter(key for each in picture.gpus for key in each.slots)
        left = {each.line.id: each.line.waiting for each in picture.lines}
        ends = [(each.gpu.free_s, each.slots) for each in picture.gpus if each.busy]
        heapq.heapify(ends)
        starts = list(ahead.starts)
        for at_s in sorted({0.0, *(start.taken_in_s for start in starts), *(end_s for end_s, _ in ends)}):
            while ends and ends[0][0] <= at_s:
                running.subtract(heapq.heappop(ends)[1])
            while starts and starts[0].taken_in_s <= at_s:
                taken = by_id[starts.pop(0).line_id]
                left[taken.line.id] -= 1
                keys = tuple(gate.key for gate in taken.gates)
                running.update(keys)
                assert all(_lets(gates[key], running[key]) for key in keys), "more run than may"
                heapq.heappush(ends, (at_s + taken.line.run_s, keys))
            could_begin = [
                line_id
                for line_id, count in left.items()
                if count and all(_lets(gate, running[gate.key] + 1) for gate in by_id[line_id].gates)
            ]
            assert not could_begin or len(ends) == len(picture.gpus), "a GPU idles, and a job could begin"

    @QUICK
    @given(pictures())
    def test_all_that_is_not_paused_begins(self, picture: Picture) -> None:
        _check_all_begin(picture, run_ahead(picture, steps=500, looks=10**6))

    @QUICK
    @given(pictures(), st.integers(1, 3))
    def test_nothing_starves_once_a_gate_opens(self, picture: Picture, most: int) -> None:
        opened = tuple(
            replace(each, gates=tuple(replace(gate, is_paused=False, most=most) for gate in each.gates))
            for each in picture.lines
        )
        picture = replace(picture, lines=opened)
        _check_all_begin(picture, run_ahead(picture, steps=500, looks=10**6))


def _lets(gate: Gate, running: int) -> bool:
    return not gate.is_paused and (gate.most is None or running <= gate.most)


def _check_all_begin(picture: Picture, ahead: Ahead) -> None:
    begun = Counter(start.line_id for start in ahead.starts)
    for each in picture.lines:
        assert begun[each.line.id] == (0 if any(gate.is_paused for gate in each.gates) else each.line.waiting)
