"""Which hosts are given back, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.leaving import HostToLeave, hosts_to_leave
from core.scheduling.scaling import PoolGpu
from tests.unit.core.scheduling.random_fleets import QUICK


def gpu(host: str, number: int = 0, **fields: object) -> PoolGpu:
    return PoolGpu(**{"name": f"gpu{number}@{host}", "host": host, "pool": "a", **fields})  # type: ignore[arg-type]


def chosen(gpus: list[PoolGpu], surplus: int, wanted: tuple[str, ...] = ()) -> list[str]:
    return [each.host for each in hosts_to_leave(gpus, {"a": surplus}, wanted)]


def test_the_emptiest_first_then_the_coldest_then_the_one_idle_for_longest() -> None:
    gpus = [
        gpu("busy", left_s=5.0),
        gpu("wanted", idle_s=99.0, holds=frozenset("x")),
        gpu("warm", idle_s=50.0, holds=frozenset("y")),
        gpu("idle", idle_s=10.0),
        gpu("longer", idle_s=20.0),
        gpu("new", state="starting"),
    ]

    assert chosen(gpus, 6, ("x",)) == ["new", "longer", "idle", "warm", "wanted", "busy"]
    assert chosen(gpus, 2, ("x",)) == ["new", "longer"]
    assert chosen(gpus, 0) == []


def test_a_host_goes_as_a_whole_or_not_at_all() -> None:
    big = [gpu("big", number, idle_s=60.0) for number in range(4)]

    assert chosen([*big, gpu("small", idle_s=1.0)], 3) == ["small"]
    assert chosen(big, 4) == ["big"]


def test_one_that_somebody_looks_after_is_left_to_them() -> None:
    assert chosen([gpu("x", 0), gpu("x", 1, state="away"), gpu("y", state="leaving")], 5) == []


def test_a_host_of_two_pools_needs_room_in_both() -> None:
    gpus = [gpu("x"), gpu("x", 1, pool="b")]

    assert hosts_to_leave(gpus, {"a": 1, "b": 0}, ()) == []
    assert [each.host for each in hosts_to_leave(gpus, {"a": 1, "b": 1}, ())] == ["x"]


def test_it_says_why() -> None:
    [found] = hosts_to_leave([gpu("x", idle_s=61.0)], {"a": 1}, ())
    assert found.reason == "It has been idle for 61 s, and is cold."
    [found] = hosts_to_leave([gpu("x", left_s=1.0, holds=frozenset("mn"))], {"a": 1}, ("m",))
    assert "has jobs on 1 of its GPUs" in found.reason
    assert "holds 2 model sets, of which jobs wait for 1" in found.reason


@st.composite
def hosts(draw: st.DrawFn) -> list[PoolGpu]:
    found = []
    for host in range(draw(st.integers(0, 8))):
        for number in range(draw(st.integers(1, 4))):
            busy = draw(st.booleans())
            found.append(
                gpu(
                    f"host{host}",
                    number,
                    state=draw(st.sampled_from(["ready", "ready", "starting", "away", "leaving"])),
                    left_s=1.0 if busy else None,
                    idle_s=None if busy else float(draw(st.integers(0, 100))),
                    holds=draw(st.frozensets(st.sampled_from("xyz"))),
                )
            )
    return found


@QUICK
@given(hosts(), st.integers(-3, 20))
def test_never_more_than_there_are_too_many(gpus: list[PoolGpu], surplus: int) -> None:
    found: list[HostToLeave] = hosts_to_leave(gpus, {"a": surplus}, ("x",))

    given_up = sum(sum(each.gpus.values()) for each in found)
    assert given_up <= max(0, surplus)
    assert len({each.host for each in found}) == len(found)
    assert [each.busy for each in found] == sorted(each.busy for each in found)
