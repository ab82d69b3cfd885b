"""Starts an instance's process while another thread forks in the worst moment; run as `python -m tests.forking_start`.

In a process of its own, for forks of a test run would copy all that is in it. Prints how the start went.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from comfy.process.spawner import Order, spawn_from_lasting_thread

#: What the other thread gets to fork in, if nothing keeps it from that.
CHANCE_S = 1.0
GIVE_UP_AFTER_S = 8.0


class Environment(dict[str, str]):
    """Forks when `subprocess` reads it, which is between the making of its pipe and its own fork."""

    forked = threading.Event()
    children: tuple[int, ...] = ()

    def items(self) -> Any:
        threading.Thread(target=self._fork, daemon=True).start()
        self.forked.wait(CHANCE_S)
        return super().items()

    def _fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            # The pool process: lives until it is killed, and closes nothing.
            while True:
                time.sleep(60)
        Environment.children = (pid,)
        self.forked.set()


def main() -> None:
    """Print `started` or `held up`."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    returned = threading.Event()

    def start() -> None:
        with Path(os.devnull).open("wb") as log:
            order = Order(command=["/bin/sleep", "60"], cwd=Path("/"), environment=Environment(), log=log)
            popen = spawn_from_lasting_thread(order, limit_s=60)
        returned.set()
        popen.kill()
        popen.wait()

    threading.Thread(target=start, daemon=True).start()
    print("started" if returned.wait(GIVE_UP_AFTER_S) else "held up")
    Environment.forked.wait(GIVE_UP_AFTER_S)
    for pid in Environment.children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
