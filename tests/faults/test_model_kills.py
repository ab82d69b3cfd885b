"""The worker that fetches a model file is killed at each step: its job has the file all the same, whole and once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.dying_workers import start_dying
from tests.faults.test_model_files import forget, loading
from tests.fleet import Fleet
from tests.model_server import ModelServer, content, model_server
from tests.waiting import until

#: Four blocks, and room for one such file and no second.
SIZE, LIMIT = 30_000_000, 40_000_000
Step = tuple[str, str, int]
#: In the order in which a fetch comes to them: just before this call, and how much of the file comes twice at most.
STEPS: dict[str, tuple[Step, int]] = {
    "before the source is asked": (("comfy/model_files/remote.py", "offer", 1), 0),
    "before another file goes": (("comfy/model_files/cache.py", "remove", 1), 0),
    "with blocks on their way": (("comfy/model_files/journal.py", "note", 2), SIZE),
    "whole and not yet judged": (("comfy/model_files/download.py", "_verify", 1), 0),
    "judged and not yet recorded": (("comfy/model_files/cache.py", "keep", 1), 0),
    "in its place and nobody knows": (("tasks/models/fetcher.py", "_ready", 1), 0),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All but a GPU worker; a file is there that nobody needs."""
    root = tmp_path_factory.mktemp("model-kills")
    (root / "models").mkdir()
    settings = {"simulated_gpus": "1", "host": "here", "reconcile_s": "0.5", "lease_renew_s": "0.5"}
    settings |= {"models_dir": str(root / "models"), "models_allow_http": "true", "models_max_bytes": str(LIMIT)}
    settings |= {"min_free_disk_bytes": "0"}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-load-seconds 0 --simulate-step-seconds 0"}
    with Fleet(root, **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)


def enter(fleet: Fleet, server: ModelServer, name: str, body: bytes) -> str:
    file = server.serve(f"/{name}", body)
    entry = {"path": f"checkpoints/{name}", "source": f"{server.url}/{name}", "sha256": file.sha256}
    answer = requests.post(f"{fleet.base_url}/api/v2/model-files", json={"model_files": [entry]}, timeout=10)
    assert answer.status_code == 200, answer.text
    return name


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_each_step(fleet: Fleet, server: ModelServer, step: str) -> None:
    at, again_bytes = STEPS[step]
    number = list(STEPS).index(step)
    folder = fleet.root / "models" / "checkpoints"
    if number == 0:
        # So that each fetch has to make room.
        fleet.wait(fleet.submit(loading(enter(fleet, server, "first.safetensors", content(SIZE, 99)))), "succeeded")
        forget(fleet, "first.safetensors")
    body = content(SIZE, number)
    name = enter(fleet, server, f"{number}.safetensors", body)
    mark = fleet.root / f"dead-{number}"
    fleet.stop("gpu0")
    start_dying(fleet, "gpu0", at=at, mark=mark)
    fleet.ready(gpus=1)

    job_id = fleet.submit(loading(name))

    until(mark.exists, what=f"the death of the worker {step}", timeout_s=60)
    fleet.kill("gpu0")
    fleet.start("gpu0").ready(gpus=1)
    fleet.wait(job_id, "succeeded", timeout_s=60)
    assert (folder / name).read_bytes() == body
    assert sorted(path.name for path in folder.iterdir()) == [name], "nothing is left of others, or of its parts"
    # Its first byte is asked for by each of the two.
    assert server.sent[f"/{name}"] <= SIZE + again_bytes + 2
    forget(fleet, name)
