"""A process that starts anew keeps its id, and loses what was open and how it took signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

SCRIPT = """
import os, signal, sys
is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
print(os.getpid(), is_default, *sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())), flush=True)
print(len(os.listdir("/proc/self/fd")), sys.argv[1], flush=True)
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for _ in range(5):
        os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
    from core.rollouts.anew import start_anew
    start_anew()
"""


def test_it_is_the_same_process_with_nothing_left_of_the_one_before(tmp_path: Path) -> None:
    script, mark = tmp_path / "script.py", tmp_path / "mark"
    script.write_text(SCRIPT)
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(mark)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    first, files, again, files_again = done.stdout.splitlines()
    assert again == first, "its id, and its signals"
    assert first.split()[1:] == ["True"]
    assert files_again == files, "nothing that was open"
