"""Two kinds of GPU, one too small for a shape: who runs out of memory there, and who is spared that."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from core.ledger.scheduling.lessons import KNOWN_S
from core.records.job import CANCELING, RUNNING
from tests.dying_workers import start_dying
from tests.fleet import Fleet, sampled, work
from tests.waiting import until

SMALL, BIG = "gpu0@here", "gpu1@here"
#: On the first no sampler ever has memory enough.
CARDS = {
    "gpu0": "--simulate-card GTX-12 --simulate-vram-gb 12 --simulate-fault oom=1000",
    "gpu1": "--simulate-card RTX-24 --simulate-vram-gb 24",
}
#: What only the big one has.
MUCH = {"vram_gb": 20}
LESSONS = "core/ledger/scheduling/lessons.py"
#: In the order in which the worker comes to them: just before this call, and how many others run out of memory then.
STEPS: dict[str, tuple[str, str, int, set[int]]] = {
    "before it is learned": (LESSONS, "learn", 1, {1}),
    # One may be claimed before the reconciler comes.
    "before anybody is led": (LESSONS, "lead", 1, {0, 1}),
    "before it is given back": ("core/ledger/requeue.py", "release", 1, {0}),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "2", "host": "here", "lease_s": "4", "lease_renew_s": "0.5", "reconcile_s": "0.5"}
    with Fleet(tmp_path_factory.mktemp("memory"), **settings) as fleet:
        fleet.start("broker", "api", "io", "beat")
        for name in CARDS:
            choose_card(fleet, name)
            fleet.start(name)
        yield fleet


@pytest.fixture(autouse=True)
def _whole(fleet: Fleet, ledger: Ledger) -> None:
    fleet.ready(gpus=2)
    until(lambda: not ledger.jobs.count(RUNNING, CANCELING), what="both to be idle")


def choose_card(fleet: Fleet, name: str) -> None:
    args = "--simulate-test-nodes --simulate-step-seconds 0.02 --simulate-load-seconds 0.2"
    fleet.reconfigure(simulator_args=f"{args} {CARDS[name]}")


def runs_of(ledger: Ledger, job_id: str) -> list[str]:
    """The instances that had the job, in order."""
    return [event.data["instance"] for event in ledger.jobs.events(job_id) if event.data.get("instance")]


def losses_of(ledger: Ledger, job_id: str) -> list[str | None]:
    return [loss.code for loss in ledger.jobs.get(job_id).losses]


def occupy_big(fleet: Fleet, ledger: Ledger, *, seed: int) -> str:
    """Have the big GPU at work until the job is cancelled."""
    job_id = fleet.submit(work(300.0, steps=3000, seed=seed), requires=MUCH)
    until(lambda: runs_of(ledger, job_id), what="the job that keeps it busy")
    return job_id


def small_is_idle(fleet: Fleet, ledger: Ledger, *, seed: int) -> None:
    """Return once the small GPU has run a job of another shape, for which it passed over those that waited longer."""
    job_id = fleet.submit(work(0.1, seed=seed))
    fleet.wait(job_id, "succeeded", timeout_s=60)
    assert runs_of(ledger, job_id) == [SMALL]


def test_one_job_teaches_and_the_others_are_spared(fleet: Fleet, ledger: Ledger) -> None:
    busy = occupy_big(fleet, ledger, seed=100)
    taught = fleet.submit(sampled(1, steps=5))
    until(lambda: losses_of(ledger, taught), what="the loss")
    # So often the API asks what was learned.
    time.sleep(KNOWN_S)
    others = [fleet.submit(sampled(seed, steps=5)) for seed in range(2, 6)]
    small_is_idle(fleet, ledger, seed=101)

    waiting = fleet.job(others[-1])
    fleet.cancel(busy)
    for job_id in (taught, *others):
        fleet.wait(job_id, "succeeded")

    words = "Ran out of memory on GTX-12 (12.8 GB), waits for another kind of GPU. "
    assert waiting["queue"]["reason"].startswith(words), waiting
    assert runs_of(ledger, taught) == [SMALL, BIG]
    [loss] = ledger.jobs.get(taught).losses
    assert (loss.code, loss.gpu) == ("out_of_memory", "cuda:0 GTX-12 : simulated")
    assert {tuple(runs_of(ledger, job_id)) for job_id in others} == {(BIG,)}


@pytest.mark.parametrize("step", STEPS)
def test_the_worker_that_ran_out_of_memory_is_killed(step: str, fleet: Fleet, ledger: Ledger) -> None:
    path, function, count, more = STEPS[step]
    mark, number = fleet.root / f"killed {step}", list(STEPS).index(step)
    fleet.stop("gpu0")
    busy = occupy_big(fleet, ledger, seed=110 + number)
    waiting = [fleet.submit(sampled(seed, steps=6 + number)) for seed in range(3)]
    choose_card(fleet, "gpu0")
    start_dying(fleet, "gpu0", at=(path, function, count), mark=mark)
    until(mark.exists, timeout_s=60, what="its death")
    small_is_idle(fleet, ledger, seed=120 + number)
    fleet.cancel(busy)

    for job_id in waiting:
        fleet.wait(job_id, "succeeded", timeout_s=60)

    tries = {job_id: runs_of(ledger, job_id).count(SMALL) for job_id in waiting}
    assert set(tries.values()) <= {0, 1}, "nobody comes back"
    first, *others = waiting
    assert tries[first] == 1
    assert losses_of(ledger, first) == ["instance_lost"], "it was killed with it"
    assert sum(tries[job_id] for job_id in others) in more
    assert ledger.line_mender.mend() == 0, "every line counts its jobs"


def test_the_other_kind_is_waited_for_when_its_worker_is_killed(fleet: Fleet, ledger: Ledger) -> None:
    busy = occupy_big(fleet, ledger, seed=130)
    job_id = fleet.submit(sampled(1, steps=300))
    until(lambda: losses_of(ledger, job_id), what="the first loss")
    fleet.cancel(busy)
    fleet.wait(busy, "canceled")
    until(lambda: runs_of(ledger, job_id) == [SMALL, BIG], what="the second try")
    fleet.kill("gpu1")
    until(lambda: losses_of(ledger, job_id) == ["out_of_memory", "instance_lost"], what="the second loss")
    choose_card(fleet, "gpu1")
    fleet.start("gpu1")

    fleet.wait(job_id, "succeeded", timeout_s=60)

    assert runs_of(ledger, job_id) == [SMALL, BIG, BIG]


def test_without_another_kind_it_fails_as_ever(fleet: Fleet, ledger: Ledger) -> None:
    fleet.stop("gpu1")
    until(lambda: len(fleet.instances("healthy")) == 1, what="the other one to be gone")

    known = fleet.submit(sampled(9, steps=5))
    new = fleet.submit(sampled(9, steps=50))

    for job_id in (known, new):
        error = fleet.wait(job_id, "failed")["error"]
        assert (error["code"], error["class_type"]) == ("out_of_memory", "KSampler")
        assert runs_of(ledger, job_id) == [SMALL, SMALL]
        assert losses_of(ledger, job_id) == ["out_of_memory"]
    choose_card(fleet, "gpu1")
    fleet.start("gpu1")
    fleet.ready(gpus=2)
    after = fleet.submit(sampled(10, steps=50))
    fleet.wait(after, "succeeded")
    assert runs_of(ledger, after) == [BIG], "what was learned alone counts, too"
