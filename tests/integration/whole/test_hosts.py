"""The whole road through a fleet of hosts that share no directory, and of which those with GPUs only dial out."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from comfy.liveness.procfs import ProcessIdentity
from tests.fleet import sampled, work
from tests.host_fleet import GPU_HOSTS, MODEL_BYTES, Hosts, hosts, within
from tests.model_server import content
from tests.namespaces import PLACE, remove_leftovers
from tests.paths import ROOT
from tests.waiting import until

# A busy machine takes its time with eight hosts.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Of /proc/net/tcp: the state of a socket that waits for connections, and loopback as an address.
LISTENS, LOOPBACK = "0A", ("0100007F", "00000000000000000000000001000000")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    # The other fleet of hosts, in `tests/faults`, has a Redis.
    with hosts(tmp_path_factory.mktemp("hosts"), prefers_rabbitmq=True) as fleet:
        yield fleet


def picture(red: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), (red, 0, 0)).save(data, "PNG")
    return data.getvalue()


def showing(name: str) -> dict[str, Any]:
    """A graph that saves what it loads."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "shown"}},
    }


def red_of(data: bytes) -> int:
    return int(Image.open(io.BytesIO(data)).getpixel((0, 0))[0])  # type: ignore[index]


def enter(fleet: Hosts, name: str, seed: int, **how: Any) -> str:
    """Serve a model file on the web and enter it in the manifest; returns what graphs call it."""
    file = fleet.web.serve(f"/{name}", content(MODEL_BYTES, seed), **how)
    entry = {"path": f"checkpoints/{name}", "source": f"{fleet.web.url}/{name}", "sha256": file.sha256}
    answer = requests.post(f"{fleet.api.base_url}/api/v2/model-files", json={"model_files": [entry]}, timeout=10)
    assert answer.status_code == 200, answer.text
    return name


def loading(name: str) -> dict[str, Any]:
    """A graph that needs this checkpoint."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
    return {**work(0.0), "load": loader, "shown": {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}}}


def test_nobody_can_connect_to_a_gpu_host(fleet: Hosts) -> None:
    for name in GPU_HOSTS:
        host = fleet.namespace(name)
        with host.entered(), socket.create_server(("0.0.0.0", 0)) as server:
            place = (host.address, server.getsockname()[1])
            socket.create_connection(place, timeout=5).close()
            for other in sorted(set(fleet.namespaces) - {name}):
                with fleet.namespaces[other].entered(), pytest.raises(TimeoutError):
                    socket.create_connection(place, timeout=0.2)
            # It is the guard that keeps them out.
            host.unguard()
            with fleet.namespaces["api"].entered():
                socket.create_connection(place, timeout=5).close()
            host.guard()


def test_what_a_killed_run_left_is_removed_by_the_next(fleet: Hosts) -> None:
    fleet.namespace("api")
    script = (
        "import os, subprocess; from tests.namespaces import Topology\n"
        "with Topology(['left']) as topology, topology.hosts['left'].entered():\n"
        "    left = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "    print(topology.hosts['left'].name, left.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    name, pid = ended.stdout.split()
    assert (PLACE / name).exists()
    sleeping = ProcessIdentity.of(int(pid))
    assert sleeping is not None
    assert sleeping.is_alive()

    remove_leftovers()

    assert not list(PLACE.glob(f"{name.rpartition('-')[0]}-*"))
    assert not sleeping.is_alive()
    # Those of a run that goes on are not touched.
    assert (PLACE / fleet.namespace("api").name).exists()


def test_what_listens_there_listens_to_loopback_alone(fleet: Hosts) -> None:
    listening = set()
    for name in GPU_HOSTS:
        with fleet.namespace(name).entered():
            for table in ("tcp", "tcp6"):
                rows = [line.split() for line in Path("/proc/thread-self/net", table).read_text().splitlines()[1:]]
                listening |= {row[1].partition(":")[0] for row in rows if row[3] == LISTENS}

    assert listening, "the simulators do"
    assert listening <= set(LOOPBACK)


def test_an_upload_goes_to_a_gpu_and_its_picture_comes_back_both_ways(fleet: Hosts) -> None:
    files, form = {"file": ("a.png", picture(7))}, {"file_path": "a.png"}
    asset = requests.post(f"{fleet.api.base_url}/api/v2/assets", files=files, data=form, timeout=20).json()

    job = fleet.api.wait(fleet.api.submit(showing(asset["id"])), "succeeded")

    [output] = job["outputs"]
    # A link leads on to the bucket; without one the API sends the bytes.
    linked = requests.get(output["url"], timeout=10)
    assert [each.status_code for each in linked.history] == [302]
    assert linked.url.startswith(fleet.gate.url)
    through_api = requests.get(f"{fleet.api.base_url}/api/v2/assets/{output['id']}/content", timeout=10)
    assert (through_api.history, through_api.status_code) == ([], 200)
    assert linked.content == through_api.content
    assert red_of(linked.content) == 7
    assert [key for key in fleet.objects("outputs") if key.startswith(job["id"])] == [f"{job['id']}/{output['name']}"]


def test_inputs_come_from_another_host_and_word_goes_to_one(fleet: Hosts) -> None:
    fleet.web.serve("/b.png", picture(9), content_type="image/png")

    graph, webhook = showing(f"{fleet.web.url}/b.png"), {"url": f"{fleet.receiver.url}/told"}
    job_id = fleet.api.submit(graph, webhook=webhook)

    job = fleet.api.wait(job_id, "succeeded")
    assert red_of(fleet.api.picture(job)) == 9
    told = until(lambda: [each for each in fleet.receiver.received if job_id in str(each.body)], what="the webhook")
    assert told[-1].path == "/told"


def test_both_gpus_work_and_progress_previews_and_ends_come_to_whoever_listens(fleet: Hosts) -> None:
    job_ids = [fleet.api.submit(sampled(seed, steps=40)) for seed in (1, 2)]
    seen = set()
    events = f"{fleet.api.base_url}/api/v2/jobs/{job_ids[1]}/events"
    with requests.get(events, stream=True, timeout=60) as answer:
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                seen.add(line.removeprefix("event: "))

    assert seen == {"status", "progress", "preview", "output"}
    jobs = [fleet.api.wait(job_id, "succeeded") for job_id in job_ids]
    assert {job["instance"] for job in jobs} == {"gpu0@one", "gpu0@two"}


def test_a_running_job_and_a_waiting_one_are_cancelled(fleet: Hosts) -> None:
    running = [fleet.api.submit(work(60, seed=seed)) for seed in (1, 2)]
    for job_id in running:
        fleet.api.wait(job_id, "running")
    waiting = fleet.api.submit(work(60, seed=3))

    for job_id in (waiting, *running):
        fleet.api.cancel(job_id)

    for job_id in (waiting, *running):
        assert fleet.api.wait(job_id, "canceled")["outputs"] == []


def test_model_files_are_fetched_to_the_host_that_needs_them_and_make_room(fleet: Hosts) -> None:
    names = [enter(fleet, f"model{number}.safetensors", number) for number in range(6)]

    for name in names:
        fleet.api.wait(fleet.api.submit(loading(name)), "succeeded", timeout_s=60)

    for host in GPU_HOSTS:
        folder = fleet.api.root.parent / f"models-{host}" / "checkpoints"
        kept = sorted(folder.glob("*.safetensors"))
        assert len(kept) <= 2, "there is room for two"
        for path in kept:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == fleet.web.files[f"/{path.name}"].sha256
    first = fleet.api.command("models", "show", f"checkpoints/{names[0]}")
    assert first.returncode == 0
    # What went comes again.
    fleet.api.wait(fleet.api.submit(loading(names[0])), "succeeded", timeout_s=60)


def test_doctor_finds_each_host_well(fleet: Hosts) -> None:
    until(lambda: fleet.ledger.timekeeping.looked_s_ago() is not None, what="a tick")
    for host in (fleet.one, fleet.two):
        with within(host.namespace):
            ended = host.command("doctor", "--json")

        found = json.loads(ended.stdout)["findings"]
        wrong = [each for each in found if each["mark"] == "wrong"]
        assert wrong == []
        marks = {each["subject"]: each["mark"] for each in found}
        assert [marks[name] for name in ("database", "clock", "secret key", "broker", "storage")] == ["ok"] * 5
