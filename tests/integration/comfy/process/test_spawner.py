"""Starts of an instance's process that something holds up: a fork beside them, or whatever else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, NoReturn

import pytest

from comfy.liveness.procfs import with_variable
from comfy.process import child as process
from comfy.process.child import spawn
from comfy.process.instance import Instance
from comfy.process.spawner import Order, spawn_from_lasting_thread
from comfy.process.spec import InstanceSpec
from core.errors import ComfyUnavailable
from tests.fleet import ROOT
from tests.waiting import until

NAME = "COMFYLINE_TEST_START"


class Held(dict[str, str]):
    """An environment whose reading, in the middle of a start, takes until `released`."""

    def __init__(self, **values: str) -> None:
        super().__init__(values)
        self.released = threading.Event()

    def items(self) -> Any:
        self.released.wait(60)
        return super().items()


def test_a_fork_beside_a_start_does_not_hold_it_up() -> None:
    # The forked process lives on: only a start that did not share its pipe with it can return.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.forking_start"],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines() == ["started"]


def test_a_start_that_does_not_return_is_given_up_and_cleaned_up(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    held, free = Held(**{NAME: mark}), {NAME: f"{mark}-next"}
    with (tmp_path / "log").open("wb") as log:
        order = Order(command=["/bin/sleep", "60"], cwd=tmp_path, environment=held, log=log)
        with pytest.raises(TimeoutError, match="did not return within"):
            spawn_from_lasting_thread(order, limit_s=0.3)

        # The thread of the first one still stands there.
        child = spawn(["/bin/sleep", "60"], cwd=tmp_path, environment=free, log=log, pid_file=tmp_path / "pid")
        assert child.is_alive()
        child.end(grace_s=0)

        held.released.set()
        # Long enough for it to come about; a sleep of a minute would be seen.
        time.sleep(0.5)
    until(lambda: not with_variable(NAME, mark), what="the end of what it started", timeout_s=20)


def test_a_start_that_was_given_up_is_a_start_that_failed(tmp_path: Path) -> None:
    environment = {NAME: uuid.uuid4().hex}
    with (
        (tmp_path / "log").open("wb") as log,
        pytest.raises(ComfyUnavailable, match=r"Cannot start /bin/sleep: the start did not return"),
    ):
        spawn(
            ["/bin/sleep", "60"],
            cwd=tmp_path,
            environment=environment,
            log=log,
            pid_file=tmp_path / "pid",
            limit_s=0.0,
        )

    until(lambda: not with_variable(NAME, environment[NAME]), what="the end of what came of it")
    assert not (tmp_path / "pid").exists()


def test_each_start_of_an_instance_has_half_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits: list[float] = []

    def never_return(_order: Order, *, limit_s: float) -> NoReturn:
        limits.append(limit_s)
        raise TimeoutError("the start did not return")

    monkeypatch.setattr(process, "spawn_from_lasting_thread", never_return)

    with pytest.raises(ComfyUnavailable, match="the start did not return"):
        Instance(InstanceSpec(name="gpu0", gpu=None, kind="simulator", data_dir=tmp_path)).start()

    assert limits == [30.0]
