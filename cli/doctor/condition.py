"""A fleet that runs: its GPUs, jobs that get no further, webhooks that nobody takes, io workers and beat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from celery import Celery

from cli.doctor.findings import Check, Said, advice, ok, unknown, wrong
from core.errors import BrokerUnavailable
from core.ledger import Ledger
from core.ledger.instances import DRAINED, DRAINING, HEALTHY, LOST, STARTING, STOPPED
from core.ledger.timekeeping import NOTE_EVERY_MS
from core.messaging.broker_errors import broker_errors
from core.records.instance import InstanceRecord
from core.scheduling.reasons import counted
from core.settings import Settings
from core.startup import open_api_advice
from tasks.messaging.app import make_app
from tasks.messaging.names import IO_QUEUE, io_queue_of

#: Workers answer within milliseconds; each that does not is waited for.
ANSWER_S = 1.5
#: Outputs that are on their way for longer than this are told of; a further turn at them comes every 15 s or so.
LATE_MS = 60_000
#: Of the lines of jobs that no GPU can run, so many are told one by one.
LINES_TOLD = 5
#: States of a GPU that somebody wants, and that end.
_WANTED = frozenset({HEALTHY, STARTING, DRAINING, DRAINED, STOPPED})


def condition_checks(settings: Settings, ledger: Ledger) -> list[Check]:
    """Return the checks of a fleet whose ledger answers."""
    late = "The database is slow: see its load."
    broker = "The broker is slow, or does not answer: see the line above."
    return [
        Check(subject="keys", look=lambda: _keys(settings, ledger), if_late=late),
        Check(subject="fleet", look=lambda: _instances(ledger), if_late=late),
        Check(subject="jobs", look=lambda: _jobs(settings, ledger), if_late=late),
        Check(subject="webhooks", look=lambda: _webhooks(ledger), if_late=late),
        Check(subject="beat", look=lambda: _beat(settings, ledger), if_late=late),
        Check(subject="io workers", look=lambda: _io_workers(settings, ledger), if_late=broker),
    ]


def _keys(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    live = ledger.keys.live()
    if (open_api := open_api_advice(settings, has_keys=live.has_any)) is not None:
        yield advice(open_api)
    elif not settings.api_keys and not live.has_any:
        yield ok(f"None: the API on {settings.api_host} is open to whoever reaches it.")
    else:
        yield ok(f"{len(settings.api_keys)} of COMFYLINE_API_KEYS, and {len(live.callers)} secrets of keys made here.")


def _instances(ledger: Ledger) -> Iterator[Said]:
    records = ledger.instances.all()
    if not records:
        yield unknown("No GPU worker has registered yet. Start some: comfyline gpu, on each machine with GPUs.")
        return
    for record in records:
        if record.state not in _WANTED:
            rest = " It rests; comfyline resume starts it now." if record.state == "quarantined" else ""
            yield wrong(f"{record.name} is {record.state}: {record.reason or 'see its log.'}{rest}")
        elif record.state in (DRAINING, DRAINED, STOPPED):
            yield advice(f"{record.name} is {record.state} and takes no jobs. {record.reason or ''}".rstrip())
    states = Counter(record.state for record in records)
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    # Whoever starts a fleet may ask before its GPUs are up.
    is_usable = states[HEALTHY] > 0 or states[STARTING] > 0
    yield ok(f"{told}.") if is_usable else wrong(f"No GPU takes jobs: {told}. See comfyline gpus.")


def _jobs(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    outlook = ledger.outlook.read()
    heads = {line: job_id for job_id, (line, index) in outlook.indexes.items() if index == 0}
    forecast = outlook.forecast
    stuck = [line for line in forecast.lines if line in heads and forecast.reason(line, 0).code == "no_gpu"]
    for line in stuck[:LINES_TOLD]:
        yield wrong(
            f"{counted(forecast.lines[line].line.waiting)}, of which {heads[line]} is first, cannot run: "
            f"{forecast.sentence(line, 0)} Bring up a GPU that can, or cancel them."
        )
    if len(stuck) > LINES_TOLD:
        yield wrong(f"Jobs of {len(stuck) - LINES_TOLD} more kinds cannot run either: see comfyline list.")
    is_well = not stuck
    if late := ledger.outputs.late(older_than_ms=LATE_MS):
        is_well = False
        at_least = "100 or more jobs" if len(late) == 100 else counted(len(late))
        yield wrong(
            f"The outputs of {at_least} have been on their way for more than a minute, {late[0]} for longest: see the "
            "io worker's log where they were made. They are given up after COMFYLINE_UPLOAD_GIVE_UP_S="
            f"{settings.upload_give_up_s:g}.",
        )
    if is_well:
        told = ", ".join(f"{count} {status}" for status, count in outlook.sizes.items()) or "none waits or runs"
        yield ok(f"{told}.")


def _webhooks(ledger: Ledger) -> Iterator[Said]:
    dead, retried = ledger.deliveries.counts()
    if dead:
        yield advice(
            f"{dead:,} deliveries were given up: comfyline webhooks list --dead says why; replay sends them again, "
            "purge forgets them.",
        )
    if retried:
        yield advice(f"{retried:,} deliveries failed and are tried again: comfyline webhooks list --pending.")
    if not dead and not retried:
        yield ok("None has failed.")


def _beat(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    ago_s = ledger.timekeeping.looked_s_ago()
    if ago_s is None:
        yield unknown("The reconciler has not run yet: it needs one comfyline beat in the fleet, and an io worker.")
    elif ago_s > 2 * NOTE_EVERY_MS / 1000 + 3 * settings.reconcile_s:
        yield wrong(
            f"The reconciler was last at work {ago_s / 60:,.0f} min ago: nothing is expired, taken back or published "
            "again. Run one comfyline beat in the fleet, and an io worker (comfyline io).",
        )
    else:
        yield ok("Its ticks are worked on.")


def _io_workers(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    try:
        queues = _consumed(settings)
    except BrokerUnavailable:
        yield unknown("They are asked through the broker, which has to answer first.")
        return
    workers = {node for node, names in queues.items() if IO_QUEUE in names}
    served = {name for names in queues.values() for name in names}
    if not workers:
        yield wrong("No io worker answers: webhooks, uploads and upkeep stand still. Run comfyline io.")
        return
    lacking = [host for host in _gpu_hosts(ledger.instances.all()) if io_queue_of(host) not in served]
    for host in lacking:
        yield wrong(
            f"No io worker answers on {host}, which has GPUs: outputs that lie there are not stored. Run comfyline io "
            f"there, with COMFYLINE_HOST={host}.",
        )
    if not lacking:
        yield ok(f"{len(workers)} answer, on each machine that has GPUs.")


def _gpu_hosts(records: Sequence[InstanceRecord]) -> list[str]:
    """Return the machines with GPU workers that live."""
    return sorted({record.host for record in records if record.state not in (STOPPED, LOST)})


def _consumed(settings: Settings) -> Mapping[str, set[str]]:
    """Return the queues that each worker takes messages from. Raises BrokerUnavailable."""
    # Short time limits, and not the app of this process: as the API's.
    app: Celery = make_app(settings, "api")
    found: dict[str, set[str]] = defaultdict(set)
    try:
        with app.connection_for_write() as connection:
            replies = app.control.inspect(timeout=ANSWER_S, connection=connection).active_queues() or {}
    except broker_errors(app.conf.broker_url) as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc
    for node, queues in replies.items():
        found[node] = {str(queue.get("name")) for queue in queues}
    return found
