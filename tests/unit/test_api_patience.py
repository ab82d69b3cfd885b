"""Time limits that hold in greenlets: run in a process of its own, since patching cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from api.patience import at_most
from core.errors import LedgerUnavailable

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import time
from api.patience import at_most, ledger_patience
from api.publishing import BoundedPublisher
from core.errors import FleetError, LedgerUnavailable

class Silent:
    def turn(self, job_id):
        try:
            time.sleep(60)
        except TimeoutError:
            heard.append(job_id)
            return False
    def notify(self, job_id):
        # A transport that tries again after the first interruption, and hangs again.
        for _ in range(2):
            try:
                time.sleep(60)
            except TimeoutError:
                continue

heard = []
def seconds(call):
    began = time.monotonic()
    result = call()
    return result, time.monotonic() - began

publisher = BoundedPublisher(Silent())
result, took_s = seconds(lambda: publisher.turn("a"))
assert result is False and heard == ["a"] and took_s < 1.0, (result, heard, took_s)
result, took_s = seconds(lambda: publisher.notify("a"))
assert result is False and took_s < 2.3, (result, took_s)

def frozen():
    try:
        with at_most(0.2, LedgerUnavailable("silent")):
            with at_most(60.0, FleetError("outer limit")):
                time.sleep(60)
    except LedgerUnavailable as exc:
        return exc.message
assert frozen() == "silent"
with ledger_patience():
    pass
time.sleep(0.3)
print("ok")
"""


def test_limits_in_greenlets() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


def test_in_plain_threads_the_block_runs_to_its_end() -> None:
    with at_most(0.01, LedgerUnavailable("x")):
        time.sleep(0.05)
