"""A GPU worker is killed at each moment at which GPU time is put down: it counts once, as the job itself says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from tests.dying_workers import start_dying
from tests.fleet import Fleet, work
from tests.usage_sums import wrong_sums

#: In the order in which a job comes to them: just before this call. And which attempt it ends with.
STEPS: dict[str, tuple[str, str, int, int]] = {
    "while the prompt runs": ("tasks/runner/reporter.py", "on_progress", 2, 2),
    "before the end is recorded": ("core/ledger/outputs.py", "succeed_at_once", 1, 2),
    "in the transaction": ("core/ledger/usage/attempts.py", "settle", 1, 2),
    "before the entry is written": ("core/ledger/transitions.py", "_close", 1, 2),
    "after the record": ("tasks/runner/direct_store.py", "leave_sources", 1, 1),
}
RUN_S = 0.5


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All but a GPU worker."""
    folder = tmp_path_factory.mktemp("usage")
    arguments = "--simulate-test-nodes"
    with Fleet(folder, simulated_gpus="1", reconcile_s="1", simulator_args=arguments) as fleet:
        yield fleet.start("broker", "api", "io", "beat")


@pytest.mark.parametrize("step", STEPS)
def test_gpu_time_counts_once_whenever_its_worker_is_killed(step: str, fleet: Fleet, ledger: Ledger) -> None:
    mark = fleet.root / f"killed at {step}"
    start_dying(fleet, "gpu0", at=STEPS[step][:3], mark=mark)
    fleet.ready(gpus=1, timeout_s=60)
    # None is served from what ComfyUI has of another.
    job_id = fleet.submit(work(RUN_S, steps=5, seed=list(STEPS).index(step)))
    fleet.wait(job_id, "succeeded", timeout_s=90)
    assert mark.exists(), "it was killed there"
    fleet.stop("gpu0")

    job = ledger.jobs.get(job_id)
    assert job.attempt == STEPS[step][3]
    # A prompt that goes on without its worker has left its nodes in ComfyUI's cache for the next attempt.
    # Its clock begins a moment before ours.
    assert job.run_ms + job.load_ms + job.lost_ms >= 0.95 * RUN_S * 1000
    assert (job.lost_ms > 0) == (job.attempt > 1)
    assert list(wrong_sums(ledger)) == []
    while ledger.usage.fold():
        pass
    assert list(wrong_sums(ledger)) == []
