"""One instance as a real process: start, probe, stop, and what is left of it when its worker is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfy.liveness.procfs import ProcessIdentity, with_variable
from comfy.process import log
from comfy.process.instance import Instance, InstanceSpec
from comfy.process.ports import belongs_to, free_port, is_free
from core.errors import ComfyUnavailable
from tests.fake_comfyui import is_running, kill, load_pid_file, make_spec, whoami
from tests.paths import ROOT
from tests.waiting import PATIENCE, eventually

Launch = Callable[..., Instance]

#: A worker of its own process: starts the instance, says which process it is, and waits to be killed.
WORKER = """
import json, os, sys, threading, time
from pathlib import Path
from tests.fake_comfyui import make_spec, whoami
from comfy.process.instance import Instance

instance = Instance(make_spec(Path(sys.argv[1]), *sys.argv[2:]))


def start():
    instance.start()
    instance.wait_ready()


starter = threading.Thread(target=start)
starter.start()
starter.join()
time.sleep(0.2)
print(json.dumps(whoami(instance.base_url)), flush=True)
time.sleep(300)
"""

#: A worker that forks, as Celery's pool does, and whose child tries to stop the instance.
FORKING_WORKER = """
import os, sys
from pathlib import Path
from tests.fake_comfyui import make_spec
from comfy.process.instance import Instance

instance = Instance(make_spec(Path(sys.argv[1])))
instance.start()
instance.wait_ready()
child = os.fork()
if child == 0:
    seen_alive = instance.is_alive
    instance.stop()
    os._exit(1 if seen_alive else 0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, instance.probe())
instance.stop()
"""

#: In place of the checkout's main.py: prints numbered lines until it is told to crash.
CHATTY = """
import os, pathlib, sys, time

crash = pathlib.Path(sys.argv[sys.argv.index("--crash-when") + 1])
number = 0
while not crash.exists():
    os.write(1, b"line %08d\\n" % number)   # in one piece, which print() does not promise
    number += 1
    time.sleep(0.0005)
print("last words")
sys.exit(3)
"""


@pytest.fixture
def launch() -> Iterator[Launch]:
    started: list[Instance] = []

    def start(spec: InstanceSpec, *, probe_timeout_s: float = 5.0) -> Instance:
        instance = Instance(spec, probe_timeout_s=probe_timeout_s)
        started.append(instance)
        instance.start()
        return instance

    yield start
    for instance in started:
        instance.stop(grace_s=0)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, int]]]]:
    workers: list[subprocess.Popen[str]] = []
    others: list[ProcessIdentity | None] = []

    def start(*extra_args: str) -> tuple[subprocess.Popen[str], dict[str, int]]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), *extra_args]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        workers.append(process)
        assert process.stdout is not None
        instance: dict[str, int] = json.loads(process.stdout.readline())
        others.extend(ProcessIdentity.of(instance[key]) for key in ("pid", "child") if key in instance)
        return process, instance

    yield start
    for process in workers:
        process.kill()
        process.communicate()
    # A test that fails must not leave what it found fault with.
    for other in others:
        if other is not None and other.is_alive():
            kill(other.pid)


def test_stop_leaves_no_process(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path, "--child"))
    instance.wait_ready()
    me = whoami(instance.base_url)
    assert me["pid"] == instance.pid
    assert instance.probe()
    assert is_running(me["child"])
    port = int(me["argv"][me["argv"].index("--port") + 1])

    instance.stop()

    assert not is_running(me["pid"])
    assert not is_running(me["child"]), "what a custom node started must end too, in whatever session it is"
    assert is_free(port)
    assert not (tmp_path / "gpu0" / "instance.pid").exists()
    assert (instance.pid, instance.base_url, instance.probe()) == (None, None, False)
    instance.stop()


def test_a_second_start_replaces_the_process(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path))
    instance.wait_ready()
    first, first_url = whoami(instance.base_url), instance.base_url

    instance.start()
    instance.wait_ready()

    assert whoami(instance.base_url)["boot"] != first["boot"]
    assert instance.base_url != first_url
    assert not is_running(first["pid"])


def test_the_process_gets_its_own_directories_and_no_secrets(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYLINE_BROKER_URL", "redis://:secret@broker/0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cuda/lib64")
    instance = launch(make_spec(tmp_path, gpu="3"))
    instance.wait_ready()

    me = whoami(instance.base_url)

    assert "secret" not in json.dumps(me["environ"])
    assert "PYTHONPATH" not in me["environ"]
    assert me["environ"]["CUDA_VISIBLE_DEVICES"] == "3"
    assert me["environ"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert me["environ"]["LD_LIBRARY_PATH"] == "/opt/cuda/lib64"
    assert me["environ"]["PATH"] == os.environ["PATH"]
    assert me["cwd"] == str(tmp_path / "ComfyUI")
    data_dir = tmp_path / "gpu0"
    assert instance.output_dir == data_dir / "output"
    assert all((data_dir / name).is_dir() for name in ("output", "input", "temp", "user"))


def test_a_process_that_ends_is_reported_with_its_last_words(tmp_path: Path, launch: Launch) -> None:
    (tmp_path / "gpu0").mkdir()
    (tmp_path / "gpu0" / "comfyui.log").write_text("words of an earlier run\n")
    instance = launch(make_spec(tmp_path, "--crash"))

    with pytest.raises(ComfyUnavailable) as caught:
        instance.wait_ready()

    assert "gpu0 exited with code 3." in caught.value.message
    assert "CUDA error: device-side assert triggered" in caught.value.message
    assert "earlier run" not in caught.value.message


def test_the_log_of_a_running_process_is_rotated(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "ROTATE_SIZE_BYTES", 20_000)
    spec = make_spec(tmp_path, "--crash-when", str(tmp_path / "crash"))
    (tmp_path / "ComfyUI" / "main.py").write_text(CHATTY)
    (tmp_path / "gpu0").mkdir()
    (tmp_path / "gpu0" / "comfyui.log").write_text("an earlier run\n" * 1_000)
    instance = launch(spec)
    first, second = (instance.log_path.with_name(f"comfyui.log.{number}") for number in (1, 2))

    def has_two_old_ones() -> bool:
        instance.rotate_log()
        return second.exists()

    assert eventually(has_two_old_ones, timeout_s=30)
    assert instance.is_alive
    assert eventually(lambda: instance.log_path.stat().st_size > 1_000)
    (tmp_path / "crash").touch()
    with pytest.raises(ComfyUnavailable) as caught:
        instance.wait_ready()

    assert "gpu0 exited with code 3." in caught.value.message
    assert "last words" in caught.value.message, "the log is now shorter than it was at the start"
    *lines, end = "".join(path.read_text() for path in (second, first, instance.log_path)).splitlines()
    assert end == "last words"
    written = [line for line in lines if line != "an earlier run"]
    numbers = [int(line.removeprefix("line ")) for line in written]
    assert numbers == sorted(set(numbers)), "every line is whole, in its place, and there once"
    assert numbers[0] == 0
    assert len(numbers) > 0.5 * numbers[-1], "all but the lines of two moments, which may be long on a busy machine"


def test_nothing_is_rotated_where_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "ROTATE_SIZE_BYTES", 10)
    (tmp_path / "gpu0").mkdir()
    (tmp_path / "gpu0" / "comfyui.log").write_text("an earlier run\n")

    Instance(make_spec(tmp_path)).rotate_log()
    Instance(make_spec(tmp_path, kind="attached", url="http://127.0.0.1:9")).rotate_log()

    assert [path.name for path in (tmp_path / "gpu0").iterdir()] == ["comfyui.log"]


def test_shared_models_are_named_at_each_start(tmp_path: Path, launch: Launch) -> None:
    models = tmp_path / "models"
    (models / "checkpoints").mkdir(parents=True)
    instance = launch(make_spec(tmp_path, models_dir=models))
    instance.wait_ready()
    argv = whoami(instance.base_url)["argv"]
    named = Path(argv[argv.index("--extra-model-paths-config") + 1])
    assert '"checkpoints": "checkpoints"' in named.read_text()

    (models / "loras").mkdir()
    instance.start()
    assert '"loras": "loras"' in named.read_text()

    (models / "loras").rmdir()
    (models / "checkpoints").rmdir()
    models.rmdir()
    with pytest.raises(ComfyUnavailable, match=f"Cannot start gpu0: .*{models}"):
        instance.start()
    assert not instance.is_alive


def test_a_start_that_takes_too_long_is_reported_with_the_log(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path, "--silent", start_timeout_s=1.5))

    with pytest.raises(ComfyUnavailable) as caught:
        instance.wait_ready()

    assert "did not answer within 1.5 s" in caught.value.message
    assert "Loading a very large model" in caught.value.message
    assert instance.is_alive, "ending it is the caller's decision"


def test_a_start_can_be_called_off(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path, "--silent"))
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    began = time.monotonic()

    with pytest.raises(ComfyUnavailable, match="called off"):
        instance.wait_ready(cancel)

    assert time.monotonic() - began < 5


def test_stopping_from_another_thread_ends_the_wait(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path, "--silent"))
    threading.Timer(0.3, instance.stop).start()
    with pytest.raises(ComfyUnavailable, match="was stopped"):
        instance.wait_ready()


def test_sigkill_follows_when_sigterm_is_ignored(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path, "--deaf"))
    instance.wait_ready()
    pid = instance.pid
    assert pid is not None
    began = time.monotonic()

    instance.stop(grace_s=0.5)

    assert not is_running(pid)
    assert 0.5 <= time.monotonic() - began < 5 * PATIENCE


def test_a_frozen_process_fails_the_probe(tmp_path: Path, launch: Launch) -> None:
    instance = launch(make_spec(tmp_path), probe_timeout_s=0.5)
    instance.wait_ready()
    assert instance.pid is not None
    os.kill(instance.pid, signal.SIGSTOP)
    began = time.monotonic()

    assert not instance.probe()

    assert time.monotonic() - began < 3 * PATIENCE
    assert instance.is_alive


def test_a_fixed_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        instance = Instance(make_spec(tmp_path, port=server.getsockname()[1]))
        with pytest.raises(ComfyUnavailable, match="is taken"):
            instance.start()


def test_a_port_lost_to_another_program_is_exchanged(tmp_path: Path, launch: Launch) -> None:
    note = tmp_path / "squatter.pid"
    try:
        instance = launch(make_spec(tmp_path, "--squatter", str(note)))
        lost_url = instance.base_url
        instance.wait_ready()

        assert instance.base_url != lost_url
        assert whoami(instance.base_url)["pid"] == instance.pid
        assert whoami(lost_url)["pid"] == int(note.read_text()), "the stranger answered, and was not taken for ours"
    finally:
        kill(int(note.read_text()))


def test_only_the_group_that_listens_owns_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert belongs_to(os.getpgrp(), port)
        with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
            assert not belongs_to(stranger.pid, port)
            stranger.kill()
        assert not is_free(port)
    assert is_free(free_port())


def test_the_instance_dies_with_its_worker_but_not_with_the_thread_that_started_it(
    worker: Callable[..., tuple[subprocess.Popen[str], dict[str, int]]],
) -> None:
    process, instance = worker()
    # The worker asked the instance who it is after the starting thread had ended, so the answer itself shows survival.
    assert is_running(instance["pid"])

    process.kill()

    assert eventually(lambda: not is_running(instance["pid"]), timeout_s=5)


def test_a_leftover_is_ended_at_the_next_start(
    tmp_path: Path, launch: Launch, worker: Callable[..., tuple[subprocess.Popen[str], dict[str, int]]]
) -> None:
    process, leftover = worker("--outlive", "--child")
    process.kill()
    process.wait()
    time.sleep(0.2)
    assert is_running(leftover["pid"])
    assert is_running(leftover["child"])

    instance = launch(make_spec(tmp_path))
    instance.wait_ready()

    assert not is_running(leftover["pid"])
    assert not is_running(leftover["child"])


def test_the_children_of_a_dead_instance_are_ended_at_the_next_start(
    tmp_path: Path, launch: Launch, worker: Callable[..., tuple[subprocess.Popen[str], dict[str, int]]]
) -> None:
    process, leftover = worker("--child")
    process.kill()
    process.wait()
    assert eventually(lambda: not is_running(leftover["pid"]))
    assert is_running(leftover["child"])

    launch(make_spec(tmp_path)).wait_ready()

    assert not is_running(leftover["child"])


def test_a_reused_process_number_is_left_alone(tmp_path: Path, launch: Launch) -> None:
    data_dir = tmp_path / "gpu0"
    data_dir.mkdir()
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        process = ProcessIdentity.of(stranger.pid)
        assert process is not None
        former = {"pid": stranger.pid, "start_ticks": process.start_ticks - 1, "boot_id": process.boot_id}
        record = {"process": former, "owner": None, "marker": "0" * 32}
        (data_dir / "instance.pid").write_text(json.dumps(record))

        launch(make_spec(tmp_path)).wait_ready()

        assert is_running(stranger.pid)
        stranger.kill()


def test_an_unreadable_pid_file_does_not_stop_the_start(tmp_path: Path, launch: Launch) -> None:
    data_dir = tmp_path / "gpu0"
    data_dir.mkdir()
    for text in ("", "[]", '{"process": 7, "owner": 7, "marker": 7}', '{"process": {"pid": "x"}}', "{}"):
        (data_dir / "instance.pid").write_text(text)
        instance = launch(make_spec(tmp_path))
        assert load_pid_file(data_dir)["process"]["pid"] == instance.pid
        instance.stop()


def test_a_start_that_cannot_be_noted_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "gpu0" / "instance.new").mkdir(parents=True)
    instance = Instance(make_spec(tmp_path, gpu=f"none-{tmp_path}"))

    with pytest.raises(ComfyUnavailable, match=r"instance\.pid"):
        instance.start()

    assert with_variable("CUDA_VISIBLE_DEVICES", f"none-{tmp_path}") == []
    assert not instance.is_alive


def test_the_directory_of_a_living_worker_is_not_taken_over(
    tmp_path: Path, worker: Callable[..., tuple[subprocess.Popen[str], dict[str, int]]]
) -> None:
    process, theirs = worker()

    with pytest.raises(ComfyUnavailable, match=f"in use by the worker with process id {process.pid}"):
        Instance(make_spec(tmp_path)).start()

    assert is_running(theirs["pid"])


def test_a_forked_child_cannot_end_the_instance(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING_WORKER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["0", "True"]


def test_an_attached_instance_is_only_probed(tmp_path: Path, launch: Launch) -> None:
    theirs = launch(make_spec(tmp_path))
    theirs.wait_ready()
    attached = Instance(make_spec(tmp_path, kind="attached", url=f"{theirs.base_url}/"))
    attached.start()
    attached.wait_ready()

    attached.stop()

    assert attached.probe()
    assert attached.base_url == theirs.base_url
    assert (attached.pid, attached.output_dir) == (None, None)
    theirs.stop()
    assert not attached.probe()
