"""Which files stay when room is needed: jobs that wait for files never keep each other's room for ever."""

from __future__ import annotations

from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need
from core.model_files.stays import Stays, stays_for
from core.records.model_file import ModelFile
from core.records.requirements import Requirements

MANIFEST = tuple(ModelFile(path=f"checkpoints/{name}.sft", source="https://a.example/x") for name in "abcdefg")
HOSTS = (FetchHost(name="here", gpus=(HostGpu(pool="p"),)), FetchHost(name="there", gpus=(HostGpu(pool="q"),)))


def waiting(files: str, since_ms: int, *, pool: str | None = "p", is_held_up: bool = True) -> Need:
    return Need(files=names(files), since_ms=since_ms, is_held_up=is_held_up, requires=Requirements(pool=pool))


def names(files: str) -> tuple[str, ...]:
    return tuple(f"{each}.sft" for each in files)


def stays(name: str, *needs: Need, running: str = "", hopeless: str = "", kept: str = "") -> Stays:
    fleet = FleetNeeds(hosts=HOSTS, needs=needs, running={"here": frozenset(names(running)), "there": frozenset("x")})
    return stays_for(
        f"{name}.sft", fleet, MANIFEST, hosts={"here"}, kept=names(kept), hopeless=frozenset(names(hopeless))
    )


def test_what_runs_here_what_may_run_and_what_is_kept_stays() -> None:
    found = stays("a", waiting("b", 1, is_held_up=False), running="cd", kept="e")
    assert found == Stays(names=frozenset(names("bcde")))


def test_files_of_later_jobs_give_way_the_latest_first_and_those_of_earlier_ones_do_not() -> None:
    needs = (waiting("de", 3), waiting("ab", 1), waiting("bc", 2), waiting("fb", 4))
    assert stays("a", *needs) == Stays(names=frozenset(names("ab")), at_last=names("fdec"))
    assert stays("c", *needs) == Stays(names=frozenset(names("abc")), at_last=names("fde"))
    assert stays("f", *needs) == Stays(names=frozenset(names("abcdef")))
    # A running job may load what a later one waits for.
    assert stays("a", *needs, running="d").at_last == names("fec")


def test_jobs_that_came_at_once_have_an_order_too() -> None:
    first, second = waiting("ab", 1), waiting("cd", 1)
    one, other = stays("a", first, second).at_last, stays("c", first, second).at_last
    assert sorted((one, other)) == [(), names("cd")]


def test_jobs_whose_files_cannot_be_had_or_come_elsewhere_hold_nobody_up() -> None:
    hopeless, elsewhere, own = waiting("ab", 1), waiting("cd", 2, pool="q"), waiting("ef", 3)
    found = stays("f", hopeless, elsewhere, own, hopeless="b")
    assert found == Stays(names=frozenset(names("ef")), at_last=names("cdab"))
    # It is tried again, now.
    assert stays("b", hopeless, own, hopeless="b").names == set(names("ab"))


def test_nobody_gives_way_to_what_nobody_waits_for() -> None:
    assert stays("g", waiting("ab", 1), waiting("cd", 2)) == Stays(names=frozenset(names("abcd")))
