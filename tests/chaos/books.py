"""The books of a chaos run: what the ledger says became of each order, and whether that can be right."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import deliveries, events, jobs
from core.ledger.webhooks.outbox_writer import DELIVERED, SENDING
from core.records.job import CANCELED, CANCELING, FAILED, QUEUED, RUNNING, SUCCEEDED, TERMINAL, TRANSITIONS
from core.records.webhook_events import END_EVENTS
from tests.chaos.load import Accepted
from tests.chaos.monkey import DISRUPTIVE, IO, Strike
from tests.chaos.orders import LABEL, Order

#: What a strike did may go on for this long after it, or after what it ended was started again: a worker whose pool
#: process was killed, for instance, takes back the jobs it holds a moment later.
AFTERMATH_MS = 2_000
#: Jobs of one GPU that one strike can cost an attempt: running, on deck, and ended but not yet recorded.
AT_ONCE = 3
#: Strikes that are told together with a job that is wrong.
NEAR_MS = 5_000
#: Jobs that are described in full when the books do not balance.
DESCRIBED = 5


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a job's log."""

    seq: int
    type: str
    data: dict[str, Any]
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One job, with all that the ledger has about it. `row` and `sent` hold columns of its tables."""

    row: Mapping[str, Any]
    log: Sequence[Event]
    sent: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The order's name, from the label or the request id."""
        return str(self.row["own_request_id"] or (self.row["metadata"] or {}).get(LABEL))


@dataclass(frozen=True, kw_only=True)
class LostAttempt:
    """An attempt after which the job was queued again."""

    job_id: str
    #: `gpu0`
    gpu: str
    begun_ms: int
    ended_ms: int

    def may_be_due_to(self, strike: Strike) -> bool:
        """Whether a strike hit the GPU while it held this attempt, or shortly before."""
        if strike.kind not in DISRUPTIVE or strike.target != self.gpu:
            return False
        mended_ms = strike.at_ms if strike.mended_ms is None else strike.mended_ms
        return strike.at_ms <= self.ended_ms and self.begun_ms <= mended_ms + AFTERMATH_MS


def read_entries(ledger: Ledger) -> list[Entry]:
    """Every job of the ledger."""
    log: dict[str, list[Event]] = defaultdict(list)
    sent: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with ledger.database.read() as connection:
        rows = connection.execute(select(jobs).order_by(jobs.c.created_at_ms)).mappings().all()
        for event in connection.execute(select(events).order_by(events.c.seq)).all():
            log[event.job_id].append(Event(seq=event.seq, type=event.type, data=event.data, at_ms=event.at_ms))
        # What is told of batches is looked at by itself (`tests.chaos.batches`).
        for delivery in connection.execute(select(deliveries).where(deliveries.c.batch.is_(None))).mappings().all():
            sent[delivery["job_id"]].append(dict(delivery))
    return [Entry(row=dict(row), log=log[row["id"]], sent=sent[row["id"]]) for row in rows]


def lost_attempts(entry: Entry) -> list[LostAttempt]:
    """The attempts of a job that came to nothing, by its log."""
    found = []
    begun: Event | None = None
    for event in entry.log:
        status = event.data.get("status")
        if status == RUNNING:
            begun = event
        elif status == QUEUED and begun is not None:
            gpu = str(begun.data["instance"]).partition("@")[0]
            times = {"begun_ms": begun.at_ms, "ended_ms": event.at_ms}
            found.append(LostAttempt(job_id=entry.row["id"], gpu=gpu, **times))
    return found


class Books:
    """Everything there is to know about a run that has ended.

    Parameters:
      posts: bodies of the webhooks that arrived, by the id of their event.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        accepted: Mapping[int, Accepted],
        strikes: Sequence[Strike],
        posts: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self._count = len(entries)
        self._accepted = accepted
        self._strikes = strikes
        self._posts = posts

    def check(self) -> None:
        """Raises AssertionError that says what does not balance, with the jobs concerned and the strikes nearby."""
        wrong = {accepted.order.name: list(self._wrong_with(accepted)) for accepted in self._accepted.values()}
        wrong = {name: problems for name, problems in wrong.items() if problems}
        overall = list(self._wrong_in_all())
        if wrong or overall:
            described = "\n".join(self._describe(name, wrong[name]) for name in list(wrong)[:DESCRIBED])
            raise AssertionError(f"the books do not balance: {overall}; {len(wrong)} jobs are wrong\n{described}")

    def summary(self) -> str:
        """One line on what became of the jobs."""
        ends = Counter(entry.row["status"] for entry in self.entries.values())
        lost = [attempt for entry in self.entries.values() for attempt in lost_attempts(entry)]
        late = sum(1 for attempt in lost if not any(self._hit(attempt, strike) for strike in self._strikes))
        repeated = sum(1 for bodies in self._posts.values() if len(bodies) > 1)
        return f"{dict(ends)}, {len(lost)} attempts lost ({late} begun after the strike), {repeated} webhooks twice"

    def _hit(self, attempt: LostAttempt, strike: Strike) -> bool:
        is_there = strike.kind in DISRUPTIVE and strike.target == attempt.gpu
        return is_there and attempt.begun_ms <= strike.at_ms <= attempt.ended_ms

    def _wrong_in_all(self) -> Iterator[str]:
        known = {accepted.order.name for accepted in self._accepted.values()}
        if missing := known - self.entries.keys():
            yield f"accepted and not in the ledger: {sorted(missing)}"
        if unknown := self.entries.keys() - known:
            yield f"in the ledger and never accepted: {sorted(unknown)}"
        if self._count != len(self.entries):
            yield f"{self._count - len(self.entries)} orders are in the ledger twice"
        lost = sum(len(lost_attempts(entry)) for entry in self.entries.values())
        strikes = sum(1 for strike in self._strikes if strike.kind in DISRUPTIVE)
        if lost > strikes * AT_ONCE:
            yield f"{lost} attempts were lost in {strikes} strikes"

    def _wrong_with(self, accepted: Accepted) -> Iterator[str]:
        entry = self.entries.get(accepted.order.name)
        if entry is None:
            return
        if accepted.job_id not in ("", entry.row["id"]):
            yield f"the client was told the id {accepted.job_id}"
        yield from wrong_log(entry)
        yield from wrong_end(entry, accepted)
        yield from self._wrong_attempts(entry)
        yield from self._wrong_webhook(entry, accepted.order)

    def _wrong_attempts(self, entry: Entry) -> Iterator[str]:
        for attempt in lost_attempts(entry):
            if not any(attempt.may_be_due_to(strike) for strike in self._strikes):
                yield f"nothing was done to {attempt.gpu} that explains the attempt lost at {attempt.ended_ms}"

    def _wrong_webhook(self, entry: Entry, order: Order) -> Iterator[str]:
        if len(entry.sent) != int(order.has_webhook):
            yield f"{len(entry.sent)} webhook events"
        for row in entry.sent:
            bodies = self._posts.get(row["id"], ())
            if row["event"] != END_EVENTS[entry.row["status"]]:
                yield f"the webhook is about {row['event']}"
            if any(body["id"] != order.name or body["extra"] != {LABEL: order.number} for body in bodies):
                yield f"the webhook said {bodies}"
            if row["state"] == SENDING and self._sender_died(row):
                # It is sent again when its hold lapses. The first post may have arrived or not.
                continue
            if row["state"] != DELIVERED:
                yield f"the webhook is {row['state']}: {row['error']}"
            if not 1 <= len(bodies) <= row["tries"]:
                yield f"the webhook came {len(bodies)} times in {row['tries']} tries"

    def _sender_died(self, row: Mapping[str, Any]) -> bool:
        return any(strike.kind == IO and 0 <= strike.at_ms - row["updated_at_ms"] < NEAR_MS for strike in self._strikes)

    def _describe(self, name: str, problems: Sequence[str]) -> str:
        entry = self.entries[name]
        first_ms, last_ms = entry.log[0].at_ms - NEAR_MS, entry.log[-1].at_ms + NEAR_MS
        near = [str(strike) for strike in self._strikes if first_ms <= strike.at_ms <= last_ms]
        log = [f"{event.seq} at {event.at_ms}: {event.type} {event.data}" for event in entry.log]
        row = {key: entry.row[key] for key in ("id", "status", "attempt", "lost_attempts", "last_seq", "error")}
        lines = [f"{name}: {'; '.join(problems)}", str(row), *log, *near, *(str(sent) for sent in entry.sent)]
        return "\n    ".join(lines)


def wrong_log(entry: Entry) -> Iterator[str]:
    """What cannot be in a job's log: gaps, steps that no job takes, anything after the end, attempts not counted."""
    numbers = [event.seq for event in entry.log]
    if numbers != list(range(1, entry.row["last_seq"] + 1)):
        yield f"events {numbers} of {entry.row['last_seq']}"
    statuses = [event.data["status"] for event in entry.log if event.type == "status"]
    if statuses[:1] != [QUEUED] or statuses[-1:] != [entry.row["status"]]:
        yield "the log does not lead from the submission to the present status"
    for before, after in itertools.pairwise(statuses):
        if after not in TRANSITIONS[before]:
            yield f"{before} became {after}"
    ends = [event.seq for event in entry.log if event.data.get("status") in TERMINAL]
    if ends != numbers[-1:]:
        yield f"its ends are the events {ends}"
    if statuses.count(RUNNING) != entry.row["attempt"]:
        yield f"{statuses.count(RUNNING)} attempts in the log, {entry.row['attempt']} counted"
    outputs = [event.data["asset_id"] for event in entry.log if event.type == "output"]
    if len(set(outputs)) != int(entry.row["status"] == SUCCEEDED) or len(outputs) != len(set(outputs)):
        yield f"outputs {outputs}"


def wrong_end(entry: Entry, accepted: Accepted) -> Iterator[str]:
    """Whether a job came to the end it was meant to come to."""
    order, status = accepted.order, entry.row["status"]
    natural = FAILED if order.is_bad else SUCCEEDED
    possible = {natural} if order.cancel_after_s is None else {natural, CANCELED}
    if accepted.cancel_answer == CANCELING:
        # A node may raise in the moment of the interrupt; a picture, however, is not kept any more.
        possible = {CANCELED, FAILED} if order.is_bad else {CANCELED}
    elif accepted.cancel_answer in TERMINAL:
        possible = {accepted.cancel_answer}
    if status not in possible:
        yield f"it is {status} and should be {' or '.join(sorted(possible))}; cancelled: {accepted.cancel_answer}"
    if status == FAILED and entry.row["error"]["code"] != "node_execution_error":
        yield f"it failed with {entry.row['error']}"
