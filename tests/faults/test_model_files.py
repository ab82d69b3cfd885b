"""Model files that a GPU host fetches, with jobs that wait for them: two workers of one host, and a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fleet import Fleet, work
from tests.model_server import ModelServer, content, model_server
from tests.waiting import until

MEGABYTE = 10**6
#: Room for three files of this size.
SIZE, LIMIT = 2 * MEGABYTE, 7 * MEGABYTE
FAST = 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("models")
    (root / "models").mkdir()
    settings = {"simulated_gpus": "2", "host": "here", "reconcile_s": "0.5", "lease_renew_s": "0.5"}
    settings |= {"models_dir": str(root / "models"), "models_allow_http": "true", "models_max_bytes": str(LIMIT)}
    settings |= {"models_tags": "always", "min_free_disk_bytes": "0"}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-load-seconds 0 --simulate-step-seconds 0"}
    with Fleet(root, **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "gpu1", "io", "beat").ready()


def enter(
    fleet: Fleet,
    server: ModelServer,
    name: str,
    body: bytes,
    *,
    sha256: str = "",
    size_bytes: int | None = None,
    **how: Any,
) -> str:
    """Serve a file and enter it in the manifest; returns what graphs call it."""
    file = server.serve(f"/{name}", body, **how)
    entry: dict[str, Any] = {
        "path": f"checkpoints/{name}",
        "source": f"{server.url}/{name}",
        "sha256": sha256 or file.sha256,
    }
    entry |= {} if size_bytes is None else {"size_bytes": size_bytes}
    answer = requests.post(f"{fleet.base_url}/api/v2/model-files", json={"model_files": [entry]}, timeout=10)
    assert answer.status_code == 200, answer.text
    return name


def forget(fleet: Fleet, name: str) -> None:
    requests.delete(f"{fleet.base_url}/api/v2/model-files/checkpoints/{name}", timeout=10)


def loading(name: str, seconds: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """A graph that needs this checkpoint, and keeps its GPU busy for so long."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}}
    return {**work(seconds, seed=seed, prefix="x"), "load": loader, "shown": shown}


def queue(fleet: Fleet, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet.job(job_id).get("queue") or {}
    return found


def on_their_way(fleet: Fleet) -> list[dict[str, Any]]:
    gpus = requests.get(f"{fleet.base_url}/api/v2/gpus", timeout=10).json()["gpus"]
    found: list[dict[str, Any]] = gpus[0]["model_files"]
    assert gpus[1]["model_files"] == found, "they are of one host"
    return found


def is_there(fleet: Fleet, name: str) -> bool:
    return (fleet.root / "models" / "checkpoints" / name).exists()


def lister(fleet: Fleet) -> str:
    """The worker that fetches."""
    return max(("gpu0", "gpu1"), key=lambda name: fleet.log(name).rfind("are fetched to"))


def test_a_job_waits_for_its_file_and_others_run_meanwhile(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "wanted.safetensors", content(SIZE, 1), bytes_s=30e3)
    job_id = fleet.submit(loading(name))

    told = until(lambda: "%" in str(queue(fleet, job_id).get("reason")) and queue(fleet, job_id), what="how far it is")
    assert told["reason_code"] == "fetching"
    assert told["reason"].startswith(f"Fetching {name}: ")
    assert told["position"] == 1
    assert told["starts_in_s"] > 1.0
    [file] = until(lambda: [each for each in on_their_way(fleet) if each["bytes_per_s"]], what="its speed")
    assert (file["path"], file["state"], file["size_bytes"]) == (f"checkpoints/{name}", "fetching", SIZE)
    assert 0 < file["done_bytes"] < SIZE
    listed = fleet.command("gpus")
    assert f"Fetches checkpoints/{name}: " in listed.stdout
    others = [fleet.submit(work(0.0, seed=seed)) for seed in range(4)]
    for other in others:
        fleet.wait(other, "succeeded")
    assert fleet.job(job_id)["status"] == "queued"

    server.files[f"/{name}"].bytes_s = None
    fleet.wait(job_id, "succeeded")

    assert on_their_way(fleet) == []
    assert server.sent[f"/{name}"] == SIZE + 1, "once, although two workers and a job wanted it"
    shown = requests.get(f"{fleet.base_url}/api/v2/model-files/checkpoints/{name}", timeout=10).json()
    assert [(copy["host"], copy["state"]) for copy in shown["copies"]] == [("here", "ready")]
    # And the next one finds it there.
    fleet.wait(fleet.submit(loading(name, seed=7)), "succeeded")


def test_the_worker_is_killed_and_another_one_goes_on(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "killed.safetensors", content(SIZE, 2), bytes_s=50e3)
    job_id = fleet.submit(loading(name))
    until(lambda: server.sent.get(f"/{name}", 0) > SIZE // 10, what="some of it")
    first = lister(fleet)

    fleet.kill(first)
    server.files[f"/{name}"].bytes_s = None

    fleet.wait(job_id, "succeeded", timeout_s=60)
    assert lister(fleet) != first
    fleet.start(first).ready()


def test_a_file_that_lies_is_told_and_mended(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "lies.safetensors", content(SIZE, 3), sha256="0" * 64)
    job_id = fleet.submit(loading(name))
    [file] = until(lambda: [each for each in on_their_way(fleet) if each["state"] == "failed"], what="the failure")
    assert f"{server.url}/{name} gave another file: its sha256 is" in file["error"]
    assert f"Could not fetch checkpoints/{name}: " in fleet.command("gpus").stdout
    told = until(
        lambda: "failed" in str(queue(fleet, job_id).get("reason")) and queue(fleet, job_id), what="the reason"
    )
    assert told["reason"].startswith(
        f"Fetching {name} failed, and is tried again: its source gave another file: its sha256"
    )
    assert server.url not in str(fleet.job(job_id)), "where it comes from is the operator's"
    assert not is_there(fleet, name)

    enter(fleet, server, "lies.safetensors", content(SIZE, 3))
    fleet.wait(job_id, "succeeded")
    forget(fleet, name)


def test_the_longest_unused_makes_room_and_what_is_in_use_stays(fleet: Fleet, server: ModelServer) -> None:
    used, old, new = (
        enter(fleet, server, f"{word}.safetensors", content(SIZE, seed))
        for seed, word in enumerate(("used", "old", "new"), start=10)
    )
    busy = fleet.submit(loading(used, seconds=60))
    fleet.wait(busy, "running")
    fleet.wait(fleet.submit(loading(old)), "succeeded")
    third = enter(fleet, server, "third.safetensors", content(SIZE, 20))
    fleet.wait(fleet.submit(loading(third)), "succeeded")
    assert is_there(fleet, used)
    until(lambda: not is_there(fleet, "wanted.safetensors"), what="the first file to go")

    fleet.wait(fleet.submit(loading(new)), "succeeded")

    assert (is_there(fleet, used), is_there(fleet, old)) == (True, False)
    fleet.cancel(busy)
    # What went can come again.
    fleet.wait(fleet.submit(loading(old, seed=3)), "succeeded")


def test_what_is_larger_than_all_room_evicts_nothing(fleet: Fleet, server: ModelServer) -> None:
    there = sorted(path.name for path in (fleet.root / "models" / "checkpoints").iterdir())
    name = enter(fleet, server, "huge.safetensors", content(LIMIT + 1, 30))
    job_id = fleet.submit(loading(name))
    [file] = until(lambda: [each for each in on_their_way(fleet) if each["state"] == "failed"], what="the failure")
    assert f"There is no room for checkpoints/{name}, {LIMIT + 1} bytes" in file["error"]
    left = sorted(path.name for path in (fleet.root / "models" / "checkpoints").glob("*.safetensors"))
    assert left == [each for each in there if each.endswith(".safetensors")]
    forget(fleet, name)
    failed = fleet.wait(job_id, "failed")
    assert failed["error"]["code"] == "invalid_workflow"
    assert name in failed["error"]["message"], "nobody can fetch it any more"


def test_a_pinned_file_comes_without_a_job_and_gives_way_to_one_that_waits(fleet: Fleet, server: ModelServer) -> None:
    file = server.serve("/pinned.safetensors", content(SIZE, 40), bytes_s=100e3)
    entry = {"path": "loras/pinned.safetensors", "source": f"{server.url}/pinned.safetensors", "sha256": file.sha256}
    body = {"model_files": [{**entry, "tags": ["always"]}]}
    assert requests.post(f"{fleet.base_url}/api/v2/model-files", json=body, timeout=10).status_code == 200
    until(lambda: server.sent.get("/pinned.safetensors", 0) > 2, what="its beginning")
    name = enter(fleet, server, "urgent.safetensors", content(SIZE, 41))

    fleet.wait(fleet.submit(loading(name)), "succeeded")

    pinned = fleet.root / "models" / "loras" / "pinned.safetensors"
    assert not pinned.exists()
    file.bytes_s = None
    until(pinned.exists, what="the pinned file")


def test_a_name_in_no_manifest_is_refused_with_those_most_like_it(fleet: Fleet) -> None:
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": loading("urgnt.safetensors")}, timeout=30)
    assert answer.status_code == 422
    assert "Most like 'urgnt.safetensors' are: urgent.safetensors" in answer.json()["error"]["message"]


def test_a_file_of_the_wrong_kind_is_not_waited_for(fleet: Fleet) -> None:
    answer = requests.post(
        f"{fleet.base_url}/api/v2/jobs", json={"workflow": loading("pinned.safetensors")}, timeout=30
    )
    assert answer.status_code == 422, "it is a LoRA, and no checkpoint"


def test_the_server_of_the_files_goes_away_meanwhile(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "away.safetensors", content(SIZE, 50), bytes_s=200e3)
    job_id = fleet.submit(loading(name))
    until(lambda: server.sent.get(f"/{name}", 0) > SIZE // 10, what="some of it")
    file = server.files.pop(f"/{name}")
    until(lambda: not server.busy, what="the end of its connections", timeout_s=60)
    file.bytes_s = None
    server.files[f"/{name}"] = file
    fleet.wait(job_id, "succeeded", timeout_s=90)


def test_a_worker_that_is_told_to_end_leaves_the_fetch_to_another(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "ended.safetensors", content(SIZE, 60), bytes_s=50e3)
    job_id = fleet.submit(loading(name))
    until(lambda: server.sent.get(f"/{name}", 0) > SIZE // 20, what="some of it")
    first = lister(fleet)
    assert fleet.stop(first) == 0
    server.files[f"/{name}"].bytes_s = None
    fleet.wait(job_id, "succeeded", timeout_s=60)
    fleet.start(first).ready()


def test_a_warm_up_waits_for_its_file_and_no_start_has_failed(fleet: Fleet, server: ModelServer) -> None:
    name = enter(fleet, server, "warm.safetensors", content(SIZE, 70), bytes_s=50e3)
    (fleet.root / "warm.json").write_text(json.dumps(loading(name)))
    assert fleet.stop("gpu0") == 0
    fleet.reconfigure(warmup_workflow=str(fleet.root / "warm.json"), quarantine_after="1", quarantine_s="3600")
    fleet.start("gpu0")

    def state() -> tuple[str, str | None]:
        [found] = [each for each in fleet.instances() if each["name"].startswith("gpu0")]
        return found["state"], found["reason"]

    waits = ("unhealthy", "The warm-up waits for warm.safetensors to be fetched.")
    until(lambda: state() == waits, what="that it says so")
    server.files[f"/{name}"].bytes_s = None
    until(lambda: state()[0] == "healthy", what="that it is up", timeout_s=60)
    assert is_there(fleet, name)


def test_instances_learn_by_themselves_of_a_folder_that_is_new_to_them(fleet: Fleet, server: ModelServer) -> None:
    file = server.serve("/adapter.safetensors", content(SIZE, 80))
    entry = {"path": "ipadapter/adapter.safetensors", "source": f"{server.url}/adapter.safetensors"}
    body = {"model_files": [{**entry, "sha256": file.sha256, "tags": ["always"]}]}
    fleet.ready()
    before = {name: fleet.instance_pid(name) for name in ("gpu0", "gpu1")}
    busy = [fleet.submit(work(6.0, seed=90 + number)) for number in range(2)]
    for job_id in busy:
        fleet.wait(job_id, "running")

    assert requests.post(f"{fleet.base_url}/api/v2/model-files", json=body, timeout=10).status_code == 200

    why = "It is started again, to look for models in ipadapter."
    for name in before:
        until(lambda name=name: why in fleet.log(name), what="that it says so")  # type: ignore[misc]
    for job_id in busy:
        assert fleet.wait(job_id, "succeeded")["attempt"] == 1, "no job is interrupted for that"
    for name, pid in before.items():
        until(lambda name=name, pid=pid: fleet.living_instance_pid(name) not in (None, pid), what="another process")  # type: ignore[misc]
        told = fleet.data_dir / "gpus" / name / "extra_model_paths.yaml"
        assert '  "ipadapter": "ipadapter"' in told.read_text().splitlines()
    until(lambda: len(fleet.instances("healthy")) == 2, what="both of them")
    # Once, and not for what others put there.
    (fleet.root / "models" / "insightface").mkdir()
    (fleet.root / "models" / "insightface" / "theirs.safetensors").write_bytes(b"x")
    fleet.wait(fleet.submit(work(3.0, seed=95)), "succeeded")
    assert [fleet.log(name).count(why) for name in before] == [1, 1]
    assert "insightface" not in fleet.log("gpu0") + fleet.log("gpu1")
