"""What keys and limits add to a submission: an open fleet, and one with a key whose tenant has every limit, in turns.

    python -m bench.access.key_cost

Each fleet has an API of two processes, and a database of its own on PostgreSQL; both share one Redis. The requests are
those of `bench.submit`. A machine that others use tells nothing by the clock: what is compared is the processor time of
the API's processes and of the database's backends for a submission, in turns that follow each other. PostgreSQL has to
be on this machine. The services are found as those of `bench.submit`.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.report import Report
from bench.submit import CLIENTS, Client, request_to
from bench.waiting import Usage
from core.ledger import Ledger
from core.records.tenant_limits import TenantLimits
from core.settings import Settings
from tests.fleet import Fleet
from tests.services import Broker, PostgresServer, find_postgres, redis_broker

#: Turns of each fleet, and submissions in one of them.
TURNS, SUBMISSIONS = 12, 300
GOAL = 1.03
#: Far enough away that none of them is reached, and nobody counts exactly.
LIMITS = TenantLimits(
    max_waiting=1_000_000,
    max_running=1_000,
    max_requests_per_minute=10_000_000,
    max_kept_bytes=10**12,
    max_gpu_s_per_day=1_000_000.0,
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a submission cost: processor time, in milliseconds."""

    api_ms: float
    database_ms: float
    #: How many were taken in in a second: looks that are made every so often weigh more where they were few.
    per_s: float

    @property
    def both_ms(self) -> float:
        """All of it."""
        return self.api_ms + self.database_ms


class Side:
    """One of the two fleets."""

    def __init__(self, fleet: Fleet, database_url: str, key: str) -> None:
        self._fleet = fleet
        self._database = psycopg.connect(database_url, autocommit=True)
        self._request = request_to(fleet.port, key)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def cost(self) -> Cost:
        """Send submissions, and return what each took."""
        api_s, database_s, begun_s = self._api_s(), self._database_s(), time.perf_counter()
        send_all(self._fleet.port, self._request, SUBMISSIONS)
        # What was answered may have its turn published a moment later; it counts in the next turn, as the one before.
        return Cost(
            api_ms=(self._api_s() - api_s) / SUBMISSIONS * 1000,
            database_ms=(self._database_s() - database_s) / SUBMISSIONS * 1000,
            per_s=SUBMISSIONS / (time.perf_counter() - begun_s),
        )

    def _api_s(self) -> float:
        pid = self._fleet.processes["api"].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(Usage.of(each).cpu_s for each in (pid, *map(int, children)))

    def _database_s(self) -> float:
        backends = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [row[0] for row in self._database.execute(backends).fetchall()]
        return sum(Usage.of(pid).cpu_s for pid in pids)


def send_all(port: int, request: bytes, count: int) -> None:
    """Send so many submissions over several connections, and wait for all answers."""
    numbers = itertools.count()
    with selectors.DefaultSelector() as selector:
        for _ in range(CLIENTS):
            client = Client(port, request)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(next(numbers))
        left = count
        while left:
            for key, _events in selector.select(timeout=1.0):
                if not key.data.answered():
                    continue
                left -= 1
                if (number := next(numbers)) < count:
                    key.data.send(number)
                else:
                    selector.unregister(key.fileobj)
                    key.data.socket.close()


@contextlib.contextmanager
def side(folder: Path, postgres: PostgresServer, broker: Broker, *, has_key: bool) -> Iterator[Side]:
    """A fleet that takes jobs in, with or without keys."""
    folder.mkdir()
    url = postgres.create()
    names = {"database_url": url, "broker_url": broker.url, "broker_namespace": f"{broker.namespace}:{folder.name}"}
    with contextlib.ExitStack() as stack:
        stack.callback(postgres.drop, url)
        fleet = stack.enter_context(Fleet(folder, simulated_gpus="1", api_processes="2", **names))
        # The GPU worker records which nodes there are, and then makes room: this is about taking jobs in.
        fleet.start("api", "gpu0").ready(gpus=1, timeout_s=180)
        fleet.stop("gpu0")
        found = Side(fleet, url, limited_key(fleet, url) if has_key else "")
        stack.callback(found.close)
        yield found


def limited_key(fleet: Fleet, database_url: str) -> str:
    """Make a tenant that has every limit; returns the secret of a key of it."""
    ledger = Ledger(Settings(data_dir=fleet.data_dir, database_url=database_url))
    ledger.tenants.create("acme", limits=LIMITS)
    _, secret = ledger.keys.create("acme", name="bench", scopes=("submit",))
    ledger.close()
    return secret


def measure(open_side: Side, keyed: Side) -> Report:
    """Let both take turns."""
    report = Report("bench.access.key_cost")
    for each in (open_side, keyed):
        each.cost()
    pairs = []
    for number in range(TURNS):
        report.progress(f"turn {number + 1} of {TURNS}")
        # Each goes first as often as the other.
        first, second = (open_side, keyed) if number % 2 else (keyed, open_side)
        costs = {id(first): first.cost(), id(second): second.cost()}
        pairs.append((costs[id(open_side)], costs[id(keyed)]))
    for name, costs_of in zip(("open", "with a key and all limits"), zip(*pairs, strict=True), strict=True):
        api_ms = statistics.median(cost.api_ms for cost in costs_of)
        database_ms = statistics.median(cost.database_ms for cost in costs_of)
        per_s = statistics.median(cost.per_s for cost in costs_of)
        report.line(name, f"API {api_ms:.2f} ms, database {database_ms:.2f} ms of processor time, {per_s:.0f} a second")
    ratios = sorted(keyed_cost.both_ms / open_cost.both_ms for open_cost, keyed_cost in pairs)
    ratio = statistics.median(ratios)
    between = f"half of {TURNS} between {ratios[TURNS // 4]:.3f} and {ratios[-TURNS // 4 - 1]:.3f}"
    report.line("a key against none", f"{ratio:.3f}, {between}", goal=f"at most {GOAL}", met=ratio <= GOAL)
    return report


def main() -> int:
    postgres = find_postgres()
    with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder, redis_broker() as broker:
        sides = [side(Path(folder, name), postgres, broker, has_key=name == "keyed") for name in ("open", "keyed")]
        with sides[0] as open_side, sides[1] as keyed:
            return measure(open_side, keyed).print()


if __name__ == "__main__":
    sys.exit(main())
