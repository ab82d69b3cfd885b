"""Time limits that hold in greenlets: run in a process of its own, since patching cannot be undone."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from api.http.time_limits import at_most
from core.errors import LedgerUnavailable
from tests.paths import ROOT

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import time
import gevent.event
from api.http.time_limits import at_most, ledger_time_limit
from api.service.publishing import PUBLISH_S, RETRY_S, SILENCE_S, BackgroundPublisher
from core.errors import ComfylineError, LedgerUnavailable

class Frozen:
    # It answers nothing at first: one message is interrupted, the next try hangs even then.
    def __init__(self):
        self.tried, self.taken, self.frozen = [], [], True
    def turn(self, job_id, recorded_s=None):
        self.tried.append(job_id)
        try:
            while self.frozen:
                time.sleep(60)
        except TimeoutError:
            if self.tried.count(job_id) == 1:
                return False
            time.sleep(60)
        self.taken.append(job_id)
        return True

broker = Frozen()
publisher = BackgroundPublisher(broker)
began = time.monotonic()
assert all(publisher.turn(name) for name in "abc")
# The first pays for finding out, the others do not wait.
assert time.monotonic() - began < 2 * SILENCE_S
assert broker.tried[0] == "a" and broker.taken == [], broker.tried
broker.frozen = False
give_up = time.monotonic() + 2 * (PUBLISH_S + RETRY_S)
while broker.taken != ["a", "b", "c"]:
    assert time.monotonic() < give_up, (broker.tried, broker.taken)
    time.sleep(0.05)

def frozen():
    try:
        with at_most(0.2, LedgerUnavailable("silent")):
            with at_most(60.0, ComfylineError("outer limit")):
                time.sleep(60)
    except LedgerUnavailable as exc:
        return exc.message
assert frozen() == "silent"
with ledger_time_limit():
    pass
time.sleep(0.3)

# An answer that takes four rounds of a loop that is busy for 0.2 s in each comes in time.
def keep_busy():
    for _ in range(8):
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass
        gevent.sleep(0)
def answer():
    for _ in range(4):
        gevent.sleep(0.001)
    answered.set()
answered = gevent.event.Event()
hog, peer = gevent.spawn(keep_busy), gevent.spawn(answer)
with at_most(0.4, LedgerUnavailable("silent")):
    answered.wait()
gevent.joinall([hog, peer])
print("ok")
"""


@pytest.mark.slow
def test_limits_in_greenlets() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=90)

    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


def test_in_plain_threads_the_block_runs_to_its_end() -> None:
    with at_most(0.01, LedgerUnavailable("x")):
        time.sleep(0.05)
