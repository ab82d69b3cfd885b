"""The rules that tell slow from stuck, on made-up clocks and readings; and the readings, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from comfy.liveness.activity import Vitals, Work
from comfy.liveness.watchdog import Idleness, Judge, Limits
from tests.waiting import PATIENCE

LIMITS = Limits(idle_limit_s=120.0, silence_limit_s=1800.0, dead_worker_s=10.0)


def idle_from(
    *, cpu_share: float = 0.0, io_bytes_per_s: float = 0.0, until_s: float = 600.0, every_s: float = 3.0
) -> float | None:
    """When a family that works at this pace all the time is found idle, in seconds from the first look."""
    idleness = Idleness(LIMITS)
    now_s = 0.0
    while now_s <= until_s:
        work = Work(cpu_s=40.0 + cpu_share * now_s, io_bytes=int(io_bytes_per_s * now_s))
        if idleness.look(1000.0 + now_s, work):
            return now_s
        now_s += every_s
    return None


# Work.


@pytest.mark.parametrize(("cpu_share", "io_bytes_per_s"), [(0.0, 0.0), (0.015, 0.0), (0.0, 900_000.0)])
def test_a_family_that_does_little_is_idle_when_the_limit_is_reached(cpu_share: float, io_bytes_per_s: float) -> None:
    assert idle_from(cpu_share=cpu_share, io_bytes_per_s=io_bytes_per_s) == 120.0


@pytest.mark.parametrize(("cpu_share", "io_bytes_per_s"), [(0.03, 0.0), (1.0, 0.0), (0.0, 2_000_000.0), (8.0, 1e9)])
def test_a_family_that_works_is_never_idle(cpu_share: float, io_bytes_per_s: float) -> None:
    assert idle_from(cpu_share=cpu_share, io_bytes_per_s=io_bytes_per_s) is None


def test_work_counts_until_it_has_left_the_window() -> None:
    idleness = Idleness(LIMITS)
    found = [now_s for now_s in range(0, 400, 3) if idleness.look(now_s, Work(cpu_s=min(now_s, 90.0), io_bytes=0))]
    assert found[0] == 90 + 120


def test_one_burst_is_averaged_over_the_window() -> None:
    idleness = Idleness(LIMITS)
    # A second of CPU time in 120 s is what a clean-up of an idle process may cost.
    found = [now_s for now_s in range(0, 130, 3) if idleness.look(now_s, Work(cpu_s=float(now_s > 60), io_bytes=0))]
    assert found[0] == 120


def test_a_machine_that_stood_still_proves_nothing() -> None:
    idleness = Idleness(LIMITS)
    nothing = Work(cpu_s=1.0, io_bytes=0)
    assert not idleness.look(0.0, nothing)
    assert not idleness.look(3600.0, nothing), "an hour of sleep is not an hour of watching"
    # From here it works as before.
    assert not any(idleness.look(3600.0 + s, Work(cpu_s=1.0 + s, io_bytes=0)) for s in range(3, 300, 3))


def test_a_member_that_ends_is_a_sign_of_life() -> None:
    idleness = Idleness(LIMITS)
    readings = [(now_s, 90.0 if now_s < 100 else 5.0) for now_s in range(0, 400, 3)]
    found = [now_s for now_s, cpu_s in readings if idleness.look(now_s, Work(cpu_s=cpu_s, io_bytes=0))]
    assert found[0] == 102 + 120


def test_what_cannot_be_read_is_not_idle() -> None:
    idleness = Idleness(LIMITS)
    assert not any(idleness.look(now_s, None) for now_s in range(0, 400, 3))


def test_an_idle_family_is_no_reason_while_messages_come() -> None:
    judge = Judge(LIMITS)
    nothing = Work(cpu_s=1.0, io_bytes=0)
    # Sampling on a GPU may leave the CPU alone, and brings an event with each step.
    assert not any(judge.lifeless(now_s, nothing, quiet_s=30.0) for now_s in range(0, 400, 3))
    assert judge.lifeless(400.0, nothing, quiet_s=119.0) is None
    assert "no work" in (judge.lifeless(403.0, nothing, quiet_s=122.0) or "")


# Silence.


@pytest.mark.parametrize(
    ("quiet_s", "has_events", "is_stuck"), [(1799.0, True, False), (1800.0, True, True), (9000.0, False, False)]
)
def test_silence_counts_where_messages_could_come(quiet_s: float, has_events: bool, is_stuck: bool) -> None:
    why = Judge(LIMITS).silent(quiet_s=quiet_s, has_events=has_events)
    assert (why is not None) == is_stuck


# A prompt that nobody takes.


def test_a_prompt_that_nobody_takes_is_stuck() -> None:
    judge = Judge(LIMITS)
    verdicts = [judge.pending(now_s, server_is_idle=True) for now_s in (50.0, 53.0, 56.0, 59.0, 60.0)]
    assert [why is not None for why in verdicts] == [False, False, False, False, True]


def test_two_looks_are_not_enough() -> None:
    judge = Judge(LIMITS)
    # The server stood still in between: its answers may come before its worker thread has run again.
    assert judge.pending(50.0, server_is_idle=True) is None
    assert judge.pending(110.0, server_is_idle=True) is None
    assert judge.pending(113.0, server_is_idle=True) is not None


@pytest.mark.parametrize("interruption", ["busy", "missed"])
def test_the_looks_follow_each_other(interruption: str) -> None:
    judge = Judge(LIMITS)
    for now_s in (0.0, 3.0, 6.0, 9.0):
        assert judge.pending(now_s, server_is_idle=True) is None
    if interruption == "busy":
        assert judge.pending(10.0, server_is_idle=False) is None
    else:
        judge.missed()
    assert [judge.pending(now_s, server_is_idle=True) for now_s in (12.0, 15.0, 18.0, 21.0)] == [None] * 4
    assert judge.pending(24.0, server_is_idle=True) is not None


# Readings of real processes.


BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
READ = "with open('/dev/zero', 'rb', buffering=0) as zero:\n    for _ in range(64): zero.read(2**20)\n"
SAY = "import sys; print('done', flush=True); sys.stdin.read()"


@contextmanager
def python(code: str, *, session: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the code, says `done`, and waits."""
    command = [sys.executable, "-c", code + SAY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=session) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        yield process
        process.stdin.close()


def test_cpu_time_is_work() -> None:
    with python(BURN) as process:
        work = Vitals(process.pid).work()
        assert work is not None
        assert 0.25 <= work.cpu_s < 5


def test_reading_is_work() -> None:
    with python(READ) as process:
        work = Vitals(process.pid).work()
        assert work is not None
        assert work.io_bytes >= 64 * 2**20


@pytest.mark.parametrize("own_session", [False, True])
def test_what_a_child_does_counts(own_session: bool) -> None:
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"
    waiting = "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(0.1)'])\n"
    with python(child + waiting, session=own_session) as process:
        work = Vitals(process.pid).work()
        assert work is not None
        assert work.cpu_s >= 0.25


def test_an_orphan_of_the_session_counts() -> None:
    # The one in the middle ends, so that the one that works is nobody's descendant any more.
    worker = BURN + "import time; time.sleep(30)"
    middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {worker!r}])"
    with python(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {middle!r}])\n") as process:
        vitals = Vitals(process.pid)
        deadline = time.monotonic() + 10 * PATIENCE
        while (work := vitals.work()) is not None and work.cpu_s < 0.25 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, 9)
        assert work is not None
        assert work.cpu_s >= 0.25


def test_a_waiting_process_does_no_work() -> None:
    with python("") as process:
        vitals = Vitals(process.pid)
        before = vitals.work()
        time.sleep(0.3)
        after = vitals.work()
        assert before is not None
        assert after is not None
        assert after.cpu_s - before.cpu_s <= 0.02
        assert after.io_bytes - before.io_bytes < 2**16


def test_a_process_that_has_ended_tells_nothing() -> None:
    with python("") as process:
        vitals = Vitals(process.pid)
        assert vitals.work() is not None
        process.kill()
        process.wait()
        assert vitals.work() is None
    assert Vitals(process.pid).work() is None
