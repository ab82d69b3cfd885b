"""Sets of processes: restarted when they die, signalled one by one, and ended whatever they do."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cli.local.processes
from cli.local.processes import NOT_AGAIN, ProcessSet, ProcessSpec
from core.errors import ConfigurationError
from tests.waiting import eventually

#: Says in a file what happens to it, and lets a child of its own, in the same process group, do the same.
PARENT_AND_CHILD = """
import os, signal, sys, time
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(who + " got " + signal.Signals(number).name + "\\n")
    if who == "parent":
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.exit(0)
child = os.fork()
who = "parent" if child else "child"
signal.signal(signal.SIGTERM, note)
with open(sys.argv[1], "a") as file:
    file.write(who + " is up\\n")
while True:
    time.sleep(0.05)
"""
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0 and sys.argv[2] == "moved":
    os.setsid()
with open(sys.argv[1], "a") as file:
    file.write(str(os.getpid()) + "\\n")
time.sleep(60)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def processes(said: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessSet]:
    monkeypatch.setattr(cli.local.processes, "FIRST_PAUSE_S", 0.05)
    made = ProcessSet(report=said.append)
    yield made
    made.kill(made.children)
    made.sweep()


def _spec(folder: Path, code: str, *arguments: str) -> ProcessSpec:
    command = (sys.executable, "-c", code, *arguments)
    return ProcessSpec(name="it", command=command, environment=dict(os.environ), cwd=folder, log=folder / "it.log")


def _tick_until(processes: ProcessSet, condition: Callable[[], object]) -> bool:
    def tick() -> object:
        processes.tick()
        return condition()

    return eventually(tick, 10.0)


def _is_gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_a_request_to_end_reaches_the_main_process_alone(processes: ProcessSet, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    processes.start(_spec(tmp_path, PARENT_AND_CHILD, str(notes)))
    assert eventually(lambda: notes.exists() and len(notes.read_text().splitlines()) == 2)
    processes.ask_to_end(["it"])
    assert processes.wait(["it"], until=lambda: False) == []
    assert notes.read_text().splitlines()[2:] == ["parent got SIGTERM"]


@pytest.mark.parametrize("where", ["group", "moved"])
def test_what_does_not_end_is_killed_with_its_family(
    processes: ProcessSet, tmp_path: Path, said: list[str], where: str
) -> None:
    notes = tmp_path / "notes"
    processes.start(_spec(tmp_path, STUBBORN, str(notes), where))
    assert eventually(lambda: notes.exists() and len(notes.read_text().splitlines()) == 2)
    processes.ask_to_end(["it"])
    give_up_at = time.monotonic() + 0.3
    assert processes.wait(["it"], until=lambda: time.monotonic() > give_up_at) == ["it"]
    processes.kill(["it"])
    processes.sweep()
    assert eventually(lambda: all(_is_gone(int(pid)) for pid in notes.read_text().split()))
    assert said == ["it did not end in time and is killed."]


def test_what_would_only_be_refused_again_is_not_started_again(
    processes: ProcessSet, tmp_path: Path, said: list[str]
) -> None:
    code = f"print('comfyline: set COMFYLINE_HOST.', flush=True); raise SystemExit({NOT_AGAIN})"
    processes.start(_spec(tmp_path, code))
    assert _tick_until(processes, lambda: not processes.is_running())
    assert processes.refused == ["it"]
    [line] = said
    assert line.startswith("it is not started again.\n  comfyline: set COMFYLINE_HOST.")


def test_what_dies_starts_again_with_growing_pauses(
    processes: ProcessSet, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.local.processes, "FIRST_PAUSE_S", 0.2)
    processes.start(_spec(tmp_path, "import sys; sys.exit('no luck')"))
    assert _tick_until(processes, lambda: sum("ended with status 1" in line for line in said) == 3)
    child = processes.children["it"]
    assert child.restarts_in_a_row == 3
    assert child.due_at_s is not None
    assert 0.5 < child.due_at_s - time.monotonic() <= 0.8
    assert "no luck" in said[0]
    assert str(tmp_path / "it.log") in said[0]


def test_what_was_told_to_end_stays_ended(processes: ProcessSet, tmp_path: Path, said: list[str]) -> None:
    processes.restart_clean_ends = False
    processes.start(_spec(tmp_path, "pass"))
    assert _tick_until(processes, lambda: not processes.is_running())
    assert said == ["it ended as told."]


def test_what_is_asked_to_end_is_not_started_again(processes: ProcessSet, tmp_path: Path, said: list[str]) -> None:
    processes.start(_spec(tmp_path, "import time; time.sleep(60)"))
    processes.ask_to_end(["it"])
    assert processes.wait(["it"], until=lambda: False) == []
    processes.tick()
    assert not processes.is_running()
    assert said == []


def test_a_log_that_grew_large_is_set_aside(
    processes: ProcessSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.local.processes, "LARGEST_LOG_BYTES", 10)
    (tmp_path / "it.log").write_text("twenty bytes of log.")
    processes.start(_spec(tmp_path, "print('new')"))
    assert eventually(lambda: (tmp_path / "it.log").read_text() == "new\n")
    assert (tmp_path / "it.log.1").read_text() == "twenty bytes of log."


def test_a_place_that_is_not_there_is_a_clear_error(processes: ProcessSet, tmp_path: Path) -> None:
    spec = _spec(tmp_path, "pass")
    broken = ProcessSpec(name="it", command=spec.command, environment={}, cwd=tmp_path / "nowhere", log=None)
    with pytest.raises(ConfigurationError, match="it cannot be started"):
        processes.start(broken)


def test_a_start_that_fails_is_tried_again_and_ends_nothing_else(
    processes: ProcessSet, tmp_path: Path, said: list[str]
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    processes.start(replace(_spec(tmp_path, "import sys; sys.exit('no luck')"), log=logs / "it.log"))
    # As a full disk does, or a table of processes without a free place.
    logs.rename(tmp_path / "elsewhere")
    logs.touch()
    assert _tick_until(processes, lambda: sum("it cannot be started" in line for line in said) == 2), said
    assert "tried again" in said[-1]

    logs.unlink()
    assert _tick_until(processes, lambda: any("runs again" in line for line in said)), said


def test_a_line_that_cannot_be_said_ends_nothing(processes: ProcessSet, tmp_path: Path) -> None:
    def report(_line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    processes.report = report
    processes.start(_spec(tmp_path, "import sys; sys.exit('no luck')"))
    assert _tick_until(processes, lambda: processes.children["it"].restarts_in_a_row == 2)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("print('comfyline: COMFYLINE_X is wrong.'); print('INFO bye'); exit(2)", "comfyline: COMFYLINE_X is wrong."),
        (
            "import atexit; atexit.register(print, 'closed'); import nowhere",
            "ModuleNotFoundError: No module named 'nowhere'",
        ),
        ("print('12:00:01 ERROR x: the disk is gone'); print('12:00:02 INFO x: 1 left'); exit(1)", "ERROR x: the disk"),
        (
            "class NoTable(Exception): pass\nraise NoTable('relation does not exist\\nLINE 1: SELECT\\n   ^')",
            "NoTable: relation does not exist",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "If nobody did that, memory ran out"),
        ("print('nothing that looks like an error'); exit(1)", "nothing that looks like an error"),
        ("exit(1)", "It said nothing."),
    ],
)
def test_an_end_is_told_with_its_cause(
    processes: ProcessSet, said: list[str], tmp_path: Path, code: str, cause: str
) -> None:
    (tmp_path / "it.log").write_text("comfyline: a reason of long ago\n")
    processes.start(_spec(tmp_path, code))

    assert _tick_until(processes, lambda: said)
    assert cause in said[0], said
    assert "long ago" not in said[0]
