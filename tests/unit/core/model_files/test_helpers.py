"""When one more host fetches files that others have, and when files of waiting jobs will have come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.model_files.needs import (
    LISTED_S,
    USUAL_BYTES_S,
    FetchHost,
    FleetNeeds,
    HostGpu,
    Need,
    arrivals_of,
    by_name,
    host_for,
    wants_of,
)
from core.records.model_file import ModelCopy, ModelFile
from core.records.requirements import Requirements

GB = 10**9
A = ModelFile(path="checkpoints/a.sft", source="https://a.example/a", sha256="0" * 64, size_bytes=10 * GB)
B = ModelFile(path="loras/b.sft", source="https://a.example/b", sha256="0" * 64, size_bytes=GB)
#: 10 s for A, 1 s for B.
SPEEDS = {"one": 1e9, "two": 1e9, "three": 1e9}


def host(name: str, *names: str, pool: str | None = None, gpus: int = 1) -> FetchHost:
    return FetchHost(name=name, gpus=(HostGpu(pool=pool, names=frozenset(names)),) * gpus)


def need(backlog_s: float | None, **fields: object) -> Need:
    return Need(files=("a.sft",), backlog_s=backlog_s, **fields)  # type: ignore[arg-type]


def fleet(*hosts: FetchHost, copies: tuple[ModelCopy, ...] = (), **fields: object) -> FleetNeeds:
    found = {(copy.host, copy.path): copy for copy in copies}
    return FleetNeeds(hosts=hosts, copies=found, **{"speeds": SPEEDS, "scarcity": 0.0, **fields})  # type: ignore[arg-type]


def fetching(name: str, done_bytes: int = 0, path: str = A.path, bytes_s: float = 0.0) -> ModelCopy:
    return ModelCopy(host=name, path=path, state="fetching", size_bytes=10 * GB, done_bytes=done_bytes, bytes_s=bytes_s)


def chosen(wanted: Need, of: FleetNeeds) -> str | None:
    return host_for(wanted, of, by_name((A, B)))


@pytest.mark.parametrize(
    ("backlog_s", "scarcity", "load_s", "busy_s", "is_fetched"),
    [
        (None, 0.0, 0.0, 0.0, False),
        (12.9, 0.0, 0.0, 0.0, False),
        (13.1, 0.0, 0.0, 0.0, True),
        # Where GPUs are scarce it has to be worth two, as with a load.
        (25.9, 1.0, 0.0, 0.0, False),
        (26.1, 1.0, 0.0, 0.0, True),
        (17.9, 0.0, 5.0, 0.0, False),
        (18.1, 0.0, 5.0, 0.0, True),
        # It comes while the GPUs there do what they have to do themselves.
        (13.1, 0.0, 0.0, 12.0, True),
        (40.0, 0.0, 0.0, 41.0, False),
    ],
)
def test_a_fetch_has_to_be_worth_it(
    backlog_s: float | None, scarcity: float, load_s: float, busy_s: float, is_fetched: bool
) -> None:
    wanted = need(backlog_s, load_s=load_s, busy_s={"two": busy_s})
    found = chosen(wanted, fleet(host("one", "a.sft"), host("two"), scarcity=scarcity))
    assert found == ("two" if is_fetched else None)


def test_only_one_more_host_fetches_at_a_time_and_goes_on_with_it() -> None:
    hosts = (host("one", "a.sft"), host("three"), host("two"))
    assert chosen(need(1000), fleet(*hosts)) == "two"
    begun = fleet(*hosts, copies=(fetching("three"),))
    assert chosen(need(1000), begun) == "three"
    wants = [wants_of(each.name, FleetNeeds(**{**vars(begun), "needs": (need(1000),)}), (A,), pool=None, tags=())
             for each in hosts]  # fmt: skip
    assert [[entry.path for entry in each.to_help] for each in wants] == [[], [A.path], []]
    assert not [each for each in wants if each.for_jobs]
    # What is left of it may be worth it where all of it would not be; nobody else begins meanwhile.
    nearly = fleet(*hosts, copies=(fetching("three", 9 * GB),))
    assert chosen(need(5), fleet(*hosts)) is None
    assert chosen(need(5), nearly) == "three"
    assert chosen(need(3), nearly) is None
    # It has come, and its GPUs are about to list it.
    ready = ModelCopy(host="three", path=A.path, state="ready", size_bytes=10 * GB)
    assert chosen(need(1000), fleet(*hosts, copies=(ready,))) == "three"
    # Whoever fetches them got busy meanwhile: nobody else begins, for they will be of use there yet.
    for each in (fetching("three"), ready):
        busy = need(20, busy_s={"three": 30.0})
        assert chosen(busy, fleet(*hosts)) == "two"
        assert chosen(busy, fleet(*hosts, copies=(each,))) is None
    # They do: the next one has its turn, if the backlog is still worth it.
    assert chosen(need(1000), fleet(host("one", "a.sft"), host("three", "a.sft"), host("two"))) == "two"


def test_pools_and_what_no_manifest_has_keep_a_host_from_helping() -> None:
    hosts = (host("one", "a.sft", pool="p"), host("two", pool="q"))
    assert chosen(need(1000, requires=Requirements(pool="p")), fleet(*hosts)) is None
    assert chosen(need(1000, requires=Requirements(pool="q")), fleet(*hosts)) == "two"
    own = Need(files=("a.sft", "own.sft"), backlog_s=1000)
    assert chosen(own, fleet(*hosts)) is None
    assert chosen(own, fleet(hosts[0], host("two", "own.sft"))) == "two"


def test_a_host_that_failed_gives_way() -> None:
    failed = ModelCopy(host="two", path=A.path, state="failed", error="no")
    assert chosen(need(1000), fleet(host("one", "a.sft"), host("three"), host("two"), copies=(failed,))) == "three"


def test_jobs_that_nobody_can_run_go_before_those_that_are_helped() -> None:
    held_up = Need(files=("b.sft",), is_held_up=True, since_ms=2, line_id=2)
    both = (need(1000, since_ms=1, line_id=1), held_up)
    of = fleet(host("one", "a.sft"), host("two"), needs=both)
    # Whoever has less to do: "two", by its name.
    wants = wants_of("two", of, (A, B), pool=None, tags=())
    assert (wants.for_jobs, wants.to_help, wants.all) == ((B,), (A,), (B, A))
    assert arrivals_of(of, (A, B)) == {2: ("two", LISTED_S + 1), 1: ("two", LISTED_S + 11)}


def test_what_is_under_way_comes_by_its_own_speed_and_before_all_else() -> None:
    older = Need(files=("b.sft",), is_held_up=True, since_ms=1, line_id=1)
    newer = Need(files=("a.sft", "b.sft"), is_held_up=True, since_ms=2, line_id=2)
    of = fleet(host("one"), needs=(older, newer), copies=(fetching("one", 8 * GB, bytes_s=5e8),))
    assert arrivals_of(of, (A, B)) == {1: ("one", LISTED_S + 5), 2: ("one", LISTED_S + 5)}


def test_a_file_that_hardly_comes_holds_up_no_other() -> None:
    older = Need(files=("a.sft",), is_held_up=True, since_ms=1, line_id=1)
    newer = Need(files=("b.sft",), is_held_up=True, since_ms=2, line_id=2)
    of = fleet(host("one"), needs=(older, newer), copies=(fetching("one", 0, bytes_s=100.0),))
    found = arrivals_of(of, (A, B))
    assert found[1][1] > 10**6
    assert found[2] == ("one", LISTED_S + 1)


@pytest.mark.parametrize(
    ("speeds", "seconds"),
    [({"one": 5e8, "two": 1e9}, 20.0), ({"two": 1e9, "three": 3e9}, 5.0), ({}, 10 * GB / USUAL_BYTES_S)],
)
def test_a_host_is_as_fast_as_it_was_else_as_the_fleet(speeds: dict[str, float], seconds: float) -> None:
    held_up = Need(files=("a.sft",), is_held_up=True, line_id=7)
    of = fleet(host("one"), needs=(held_up,), speeds=speeds)
    assert arrivals_of(of, (A,)) == {7: ("one", LISTED_S + seconds)}


def test_behind_a_file_of_unknown_size_nobody_knows_when() -> None:
    unknown = replace(B, size_bytes=None)
    needs = (
        Need(files=("a.sft",), is_held_up=True, since_ms=1, line_id=1),
        Need(files=("b.sft",), is_held_up=True, since_ms=2, line_id=2),
    )
    assert arrivals_of(fleet(host("one"), needs=needs), (A, unknown)) == {1: ("one", LISTED_S + 10)}
    late = fleet(host("one"), needs=needs, copies=(replace(fetching("one", path=B.path), size_bytes=None),))
    assert arrivals_of(late, (A, unknown)) == {}
    # Its source has said it.
    said = fleet(host("one"), needs=needs, copies=(replace(fetching("one", path=B.path), size_bytes=2 * GB),))
    assert arrivals_of(said, (A, unknown)) == {1: ("one", LISTED_S + 12), 2: ("one", LISTED_S + 2)}


def test_nothing_is_said_of_what_nobody_fetches_or_what_failed() -> None:
    held_up = Need(files=("a.sft",), is_held_up=True, line_id=7)
    failed = ModelCopy(host="one", path=A.path, state="failed", error="no")
    assert arrivals_of(fleet(host("one"), needs=(held_up,), copies=(failed,)), (A,)) == {}
    assert arrivals_of(fleet(needs=(held_up,)), (A,)) == {}
    assert arrivals_of(fleet(host("one", "a.sft"), needs=(need(None, line_id=7),)), (A,)) == {}
    # It is there, and will be listed soon.
    assert arrivals_of(fleet(host("one", "a.sft"), needs=(held_up,)), (A,)) == {7: ("one", LISTED_S)}
