"""How many webhooks a second one io worker's dispatcher sends, against plain `requests.post` with as many threads.

    python -m bench.webhooks

Both post the same bodies to one receiver on this machine, four at once, in turns. Ours also reads each delivery from
the ledger (SQLite), takes it, opens the job's secret, signs, connects through the guard, and records how it went. The
receiver is a process of its own that answers at once, and then one that takes 20 ms, as one on the internet would. It
closes each connection, so that what ours saves with receivers that keep them does not show.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import requests

from bench.report import Report
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.settings import Settings
from tasks.webhooks.dispatcher import WebhookDispatcher
from tests.ledger_moves import succeeded
from tests.receivers import Answer, Received, receiving
from tests.services import make_settings

GOAL = 0.8
AT_ONCE = 4
ROUNDS = 5
COUNT = 1000
SLOW_COUNT = 400
SLOW_S = 0.02
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw=="


def answer_after(pause_s: float) -> Callable[[Received], Answer]:
    """A receiver's behaviour: 200, so many seconds later."""

    def behave(_received: Received) -> Answer:
        time.sleep(pause_s)
        return 200, {}, []

    return behave


def serve(pause_s: float, pipe: Connection) -> None:
    """Be the receiver until told to stop."""
    with receiving(answer_after(pause_s)) as receiver:
        pipe.send(receiver.url)
        pipe.recv()


def plain(url: str, count: int, body: bytes) -> float:
    """Posts a second with `requests`."""

    def post(_number: int) -> None:
        requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=15).raise_for_status()

    begun_s = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(post, range(count)))
    return count / (time.perf_counter() - begun_s)


def ours(settings: Settings, ledger: Ledger, url: str, count: int) -> float:
    """Webhooks a second, from due in the ledger to recorded there as delivered."""
    webhook = {"url": url, "timeout_s": 15.0, "extra_params": {}, "base_url": "", "origin": "request"}
    jobs = [
        succeeded(ledger, contract="generate", webhook=webhook, secrets={"webhook_secret": SECRET}).job_id
        for _ in range(count)
    ]
    dispatcher = WebhookDispatcher(settings, ledger)
    begun_s = time.perf_counter()
    dispatcher.call(jobs[0])
    while ledger.deliveries.open_count():
        time.sleep(0.02)
    elapsed_s = time.perf_counter() - begun_s
    dispatcher.close()
    assert ledger.deliveries.purge("delivered") == count, "some were not delivered"
    return count / elapsed_s


def compare(report: Report, name: str, *, pause_s: float, count: int) -> float:
    """Rounds of both in turns; returns the median of ours divided by plain."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(pause_s, far))
    process.start()
    url = near.recv()
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
        settings = make_settings(Path(folder), webhook_per_host=AT_ONCE)
        migrate(settings)
        ledger = Ledger(settings)
        for number in range(ROUNDS):
            report.progress(f"{name}, round {number + 1} of {ROUNDS}")
            rates.append((plain(url, count, b"x" * 600), ours(settings, ledger, url, count)))
        ledger.close()
    near.send("stop")
    process.join()
    report.line(f"{name}: requests", ", ".join(f"{theirs:.0f}/s" for theirs, _own in rates))
    report.line(f"{name}: ours", ", ".join(f"{own:.0f}/s" for _theirs, own in rates))
    return statistics.median(own / theirs for theirs, own in rates)


def main() -> int:
    report = Report("bench.webhooks")
    ratio = compare(report, "answers at once", pause_s=0.0, count=COUNT)
    report.line("ours against requests, at once", f"{ratio:.2f}", goal=f"at least {GOAL}", met=ratio >= GOAL)
    ratio = compare(report, "answers in 20 ms", pause_s=SLOW_S, count=SLOW_COUNT)
    report.line("ours against requests, 20 ms", f"{ratio:.2f}", goal=f"at least {GOAL}", met=ratio >= GOAL)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
