"""One chaos run: a fleet under load that is taken apart, put together again, and then has its books checked."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from core.ledger.webhooks.outbox import MARGIN_S
from core.ledger.webhooks.outbox_writer import PENDING, SENDING
from core.machine import PROC
from core.records.access import DEFAULT_TENANT, SCOPES
from core.settings import Settings
from tests.chaos.batches import wrong_batches
from tests.chaos.books import Books, Entry, read_entries
from tests.chaos.load import OPEN, Accepted, Clients, Load
from tests.chaos.monkey import Monkey, Strike
from tests.chaos.orders import TENANTS, Order
from tests.chaos.pictures import wrong_pictures
from tests.chaos.receiver import Receiver, receiving
from tests.fleet import Fleet
from tests.usage_sums import wrong_sums
from tests.waiting import eventually, until

LEASE_S, RENEW_S, RECONCILE_S = 3.0, 1.0, 1.0
#: Longer than a lease and two ticks of the reconciler: whoever sleeps so long has lost its jobs.
FROZEN_S = LEASE_S + 2 * RECONCILE_S + 1.0
SETTINGS = {
    "lease_s": str(LEASE_S),
    "lease_renew_s": str(RENEW_S),
    "reconcile_s": str(RECONCILE_S),
    # No job is given up and no instance is given a rest, however often they are hit.
    "max_attempts": "50",
    "quarantine_after": "1000",
    "simulator_args": "--simulate-test-nodes",
}
#: After the last strike everything has to end by itself within this time, and the last webhooks have to be sent.
SETTLE_S = 120.0
#: The receiver answers at once.
POST_S = 5.0
#: A fleet in which nothing is left to strike for this long does not come back by itself.
STANDSTILL_S = 90.0
REPORT_S = 5.0
#: The load is ahead of the strikes by this many of their shares, so that each strike finds work under way.
LEAD = 2


@dataclass(frozen=True, kw_only=True)
class Arena:
    """A fleet that runs, and what is needed to look at it from outside."""

    fleet: Fleet
    ledger: Ledger
    receiver: Receiver
    gpus: tuple[str, ...]
    #: Of the tenants.
    keys: Mapping[str, str]

    @property
    def clients(self) -> Clients:
        """Clients of its API."""
        return Clients(self.fleet.base_url, self.receiver.url, self.keys)


@dataclass(kw_only=True)
class Plan:
    """How a run goes."""

    orders: Sequence[Order]
    strikes: int
    #: Orders open at any time.
    depth: int
    #: Seconds between two strikes.
    pause_s: float
    #: The run strikes no more and submits no more after this.
    limit_s: float
    #: Wait until webhooks whose sender died are sent again, too.
    is_patient: bool = False
    #: Said every few seconds.
    report: Callable[[str], None] = field(default=print)


@contextlib.contextmanager
def arena(root: Path, *, gpus: int, **settings: str) -> Iterator[Arena]:
    """A fleet of so many simulated GPUs. Afterwards none of its processes is left, or it is an AssertionError."""
    names = tuple(f"gpu{number}" for number in range(gpus))
    others = ("api", *names, "io", "beat") if settings.get("broker_url") else ("broker", "api", *names, "io", "beat")
    with receiving() as receiver, Fleet(root, simulated_gpus=str(gpus), **{**SETTINGS, **settings}) as fleet:
        fleet.start(*others).ready(gpus=gpus, timeout_s=90)
        ledger = Ledger(Settings(data_dir=fleet.data_dir, database_url=settings.get("database_url", "")))
        try:
            keys = _open_for_tenants(fleet, ledger)
            yield Arena(fleet=fleet, ledger=ledger, receiver=receiver, gpus=names, keys=keys)
        finally:
            ledger.close()
    until(lambda: not processes_of(root), timeout_s=10, what=f"the end of {processes_of(root)}")


def _open_for_tenants(fleet: Fleet, ledger: Ledger) -> dict[str, str]:
    """Make the tenants and a key of each, and one for the operator; returns those of the tenants."""
    keys = {}
    for tenant in TENANTS:
        if tenant != DEFAULT_TENANT:
            ledger.tenants.create(tenant)
        _, keys[tenant] = ledger.keys.create(tenant, name="chaos", scopes=("submit", "read", "cancel"))
    _, fleet.key = ledger.keys.create(DEFAULT_TENANT, name="operator", scopes=SCOPES)

    def asks_for_keys() -> bool:
        jobs = f"{fleet.base_url}/api/v2/jobs"
        told = [requests.get(jobs, headers=headers, timeout=5).status_code for headers in ({}, fleet.headers)]
        return told == [requests.codes.unauthorized, requests.codes.ok]

    until(asks_for_keys, what="an API that knows the keys")
    return keys


def take_apart(arena: Arena, monkey: Monkey, plan: Plan) -> dict[int, Accepted]:
    """Strike while the load goes on, in step with each other; returns what was accepted. All is mended afterwards."""
    begun_s = time.monotonic()
    count, per_strike = len(plan.orders), len(plan.orders) / max(1, plan.strikes)
    load = Load(
        arena.clients,
        arena.ledger,
        plan.orders,
        depth=plan.depth,
        allowed=lambda: count if len(monkey.strikes) >= plan.strikes else (len(monkey.strikes) + LEAD) * per_strike,
    )
    struck_s = moved_s = reported_s = begun_s
    seen = (0, 0)
    try:
        while not (load.is_done and len(monkey.strikes) >= plan.strikes):
            now_s = time.monotonic()
            if now_s - begun_s > plan.limit_s:
                break
            monkey.watch()
            monkey.mend()
            is_due = now_s - struck_s > plan.pause_s and len(load.accepted) >= per_strike * len(monkey.strikes)
            if is_due and len(monkey.strikes) < plan.strikes and monkey.strike():
                struck_s = now_s
            if seen != (seen := (len(load.accepted), len(monkey.strikes))):
                moved_s = now_s
            if now_s - moved_s > STANDSTILL_S:
                raise AssertionError(f"nothing goes on any more. {standstill(arena, monkey)}")
            if now_s - reported_s > REPORT_S:
                reported_s = now_s
                plan.report(_progress(now_s - begun_s, monkey, load))
            time.sleep(0.03)
        monkey.mend_all()
        load.close()
        plan.report(_progress(time.monotonic() - begun_s, monkey, load))
    except BaseException:
        load.abandon()
        monkey.mend_all()
        raise
    return load.accepted


def settle(arena: Arena, monkey: Monkey, *, is_patient: bool) -> list[Entry]:
    """Wait until every job has ended, every webhook is sent and every GPU is healthy again; returns all jobs."""

    def wait_for(condition: Callable[[], object], what: str, *, timeout_s: float = SETTLE_S) -> None:
        def is_so() -> object:
            monkey.watch()
            return condition()

        until(is_so, timeout_s=timeout_s, what=what)

    ledger = arena.ledger
    try:
        wait_for(lambda: ledger.jobs.count(*OPEN) == 0, "the end of every job")
        wait_for(lambda: is_whole(arena, monkey.strikes), "the health of every GPU")
        arena.fleet.ready(gpus=len(arena.gpus))
        wait_for(lambda: PENDING not in sending(ledger), "the last webhook")
        if is_patient:
            patience_s = Settings().webhook_limit_s + MARGIN_S + 30
            wait_for(lambda: SENDING not in sending(ledger), "webhooks whose sender died", timeout_s=patience_s)
        else:
            # Those whose sender lives; what is left then is for the books to judge.
            eventually(lambda: SENDING not in sending(ledger), POST_S)
    except AssertionError as exc:
        raise AssertionError(f"{exc}. {standstill(arena, monkey)}") from exc
    return read_entries(ledger)


def check(arena: Arena, monkey: Monkey, accepted: dict[int, Accepted], entries: Sequence[Entry]) -> str:
    """Check everything there is to check; returns a line on what happened."""
    books = Books(entries, accepted, monkey.strikes, arena.receiver.posts())
    books.check()
    orders = {found.order.name: found.order for found in accepted.values()}
    pictures = list(wrong_pictures(arena.fleet.base_url, entries, orders, arena.fleet.headers))
    used = list(wrong_sums(arena.ledger))
    assert not used, f"what was used does not add up: {used}"
    batches = list(wrong_batches(arena.ledger, orders.values(), arena.receiver.posts()))
    assert not batches, f"batches are wrong: {batches}"
    assert not pictures, f"{len(pictures)} pictures are wrong: {pictures[:10]}"
    assert not monkey.problems, "\n".join(monkey.problems)
    for name in arena.gpus:
        instances = processes_of(arena.fleet.data_dir / "gpus" / name)
        assert len(instances) == 1, f"{name} has the instances {instances}"
    return f"{books.summary()}; {dict(Counter(strike.kind for strike in monkey.strikes))}"


def sending(ledger: Ledger) -> set[str]:
    """The states in which webhooks are."""
    return {row["state"] for entry in read_entries(ledger) for row in entry.sent}


def is_whole(arena: Arena, strikes: Sequence[Strike]) -> bool:
    """Whether each GPU has an instance that answers for a worker that was started after the last kill."""
    for name in arena.gpus:
        killed_ms = max((strike.at_ms for strike in strikes if strike.target == name), default=0)
        [record] = [found for found in arena.ledger.instances.all() if found.name.partition("@")[0] == name]
        if record.state != HEALTHY or record.heartbeat_at_ms <= killed_ms or not arena.fleet.living_instance_pid(name):
            return False
    return True


def processes_of(folder: Path) -> dict[int, str]:
    """The processes that were told to use a folder or something below it, by their environment or command line."""
    found = {}
    for entry in [path for path in PROC.iterdir() if path.name.isdigit()]:
        try:
            told = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if any(f"{folder}{end}".encode() in text for text in told for end in ("/", "\0")):
            found[int(entry.name)] = told[0].replace(b"\0", b" ").decode(errors="replace")
    return found


def _progress(elapsed_s: float, monkey: Monkey, load: Load) -> str:
    last = monkey.strikes[-1] if monkey.strikes else "nothing yet"
    return (
        f"{elapsed_s:6.1f} s: {len(load.accepted)} accepted, {load.open_jobs()} open, {len(monkey.strikes)} strikes, "
        f"the last: {last}"
    )


def standstill(arena: Arena, monkey: Monkey) -> str:
    """What there is to know about a fleet that does not come to rest, or does not come back."""
    left = [
        f"{entry.row['id']}: {entry.log}" for entry in read_entries(arena.ledger) if not entry.row["completed_at_ms"]
    ]
    records = [str(record) for record in arena.ledger.instances.all()]
    logs = [f"{name}: ...{arena.fleet.log(name)[-1500:]}" for name in arena.fleet.processes]
    strikes = [str(strike) for strike in monkey.strikes[-10:]]
    return "\n".join(["", f"{len(left)} open jobs:", *left[:5], *records, *strikes, *logs])
