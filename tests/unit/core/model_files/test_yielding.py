"""Which files in use go for one that jobs have waited for too long: only those that came far later, in which order."""

from __future__ import annotations

from typing import Any

from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need
from core.model_files.yielding import overtaken_files
from core.records.model_file import ModelFile
from core.records.requirements import Requirements
from core.scheduling.policy import OVERTAKING

SIZE = 1000
MANIFEST = tuple(
    ModelFile(path=f"checkpoints/{name}.sft", source="https://a.example/x", size_bytes=SIZE) for name in "abcd"
)
HOSTS = (FetchHost(name="here", gpus=(HostGpu(pool="p"),)), FetchHost(name="there", gpus=(HostGpu(pool="q"),)))
#: A file comes in 1 s, and loads in 3 s.
LOAD_S, PATIENCE_MS = 3.0, int(OVERTAKING * (1 + 3) * 1000)


def names(files: str) -> tuple[str, ...]:
    return tuple(f"{each}.sft" for each in files)


def waiting(files: str, since_ms: int, *, pool: str = "p", is_held_up: bool = False, **fields: Any) -> Need:
    known: dict[str, Any] = {"requires": Requirements(pool=pool), "load_s": LOAD_S, **fields}
    return Need(files=names(files), since_ms=since_ms, is_held_up=is_held_up, **known)


OWN = waiting("a", 0, is_held_up=True)


def going(*needs: Need, at_ms: int, running: str = "", sharers: tuple[str, ...] = ()) -> tuple[str, ...]:
    fleet = FleetNeeds(
        hosts=HOSTS,
        needs=needs,
        running={"here": frozenset(names(running)), "there": frozenset(names("d"))},
        speeds={"here": float(SIZE)},
        at_ms=at_ms,
    )
    return overtaken_files("a.sft", "here", fleet, MANIFEST, sharers=sharers)


def test_nothing_goes_before_a_job_has_waited_for_as_many_loads_as_the_policy_bears() -> None:
    stream = waiting("b", PATIENCE_MS + 1)
    assert going(OWN, stream, at_ms=PATIENCE_MS, running="b") == ()
    assert going(OWN, stream, at_ms=PATIENCE_MS + 2, running="b") == names("b")


def test_what_jobs_load_that_came_before_or_soon_afterwards_stays() -> None:
    assert going(OWN, waiting("b", PATIENCE_MS), at_ms=10**9, running="b") == ()
    # Although others of the same file came later.
    assert going(OWN, waiting("b", 1), waiting("b", 10**8), at_ms=10**9) == ()


def test_the_latest_goes_first_and_what_nobody_waits_for_any_more_before_it() -> None:
    needs = (OWN, waiting("b", 10**8), waiting("c", 10**8 + 1))
    assert going(*needs, at_ms=10**9, running="bd") == names("dcb")


def test_higher_priorities_go_first_whatever_the_wait() -> None:
    assert going(OWN, waiting("b", 10**8, priority=1), at_ms=10**9) == ()
    assert going(OWN, waiting("b", 10**8, priority=-1), at_ms=10**9) == names("b")


def test_a_paused_batch_keeps_no_room_and_takes_none() -> None:
    assert going(OWN, waiting("b", 0, is_shut=True), at_ms=10**9) == names("b")
    shut = waiting("a", 0, is_held_up=True, is_shut=True)
    assert going(shut, waiting("b", 10**8), at_ms=10**9) == ()


def test_jobs_that_could_not_run_here_keep_no_room_here() -> None:
    elsewhere = waiting("b", 0, pool="q")
    assert going(OWN, elsewhere, waiting("b", 10**8), at_ms=10**9) == names("b")
    assert going(OWN, elsewhere, waiting("b", 10**8), at_ms=10**9, sharers=("there",)) == names("d")


def test_files_that_come_to_another_host_take_no_room_here() -> None:
    assert going(waiting("a", 0, pool="q", is_held_up=True), waiting("b", 10**8), at_ms=10**9) == ()
