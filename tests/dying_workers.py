"""GPU workers that are killed at a moment of the test's choice, however short that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fleet import ROOT, Fleet

#: A GPU worker one of whose processes kills itself with SIGKILL, once, when it calls a function for the n-th time.
DYING = """
import os, signal, sys, threading

path, function, left, mark = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]

def watch(frame, event, _argument):
    global left
    if event == "call" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(path):
        left -= 1
        if left == 0 and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

threading.setprofile(watch)
from cli.main import run

sys.exit(run(["worker", sys.argv[1]]))
"""


def start_dying(fleet: Fleet, name: str, *, at: tuple[str, str, int], mark: Path) -> None:
    """Start a GPU worker that kills one of its processes once.

    Parameters:
      name: `gpu0`.
      at: the end of a module's path, a function there, and which of its calls is not begun any more.
      mark: a file that is there once it is dead.
    """
    path, function, count = at
    with (fleet.root / f"{name}.log").open("ab") as log:
        fleet.processes[name] = subprocess.Popen(
            [sys.executable, "-c", DYING, name, path, function, str(count), str(mark)],
            cwd=ROOT,
            env=dict(fleet.environment()),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
