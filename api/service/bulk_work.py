"""Cancels and deletes many jobs at once: first they are counted, and then whoever repeats the count has it done.

A request does as much as fits into its time; the same request again goes on where it, or a process that died, was.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal, TypeAlias

from api.http.caller import actor, caller
from api.http.errors import BadParameter, MoreMatch, NotAllowed
from api.http.time_limits import ledger_time_limit
from api.schema import fields
from api.schema.bulk_bodies import BulkBody
from api.service.input_files import Intake
from core.clock import now_ms
from core.errors import InvalidRequest
from core.ledger import Ledger
from core.ledger.many_jobs import CANCELLABLE, JobFilter
from core.records.access import ALL_TENANTS
from core.records.job import CANCELED, EXPIRED, FAILED, SUCCEEDED, Status
from core.settings import Settings
from core.storage.backend import output_storage
from tasks.messaging.follow_up import JobPublisher, Moved, publish_follow_up

Action: TypeAlias = Literal["cancel", "delete"]
CANCEL: Final = "cancel"
DELETE: Final = "delete"
#: Which jobs each can be done to, and what it is called then.
_ALLOWED: Mapping[Action, tuple[tuple[Status, ...], str]] = {
    CANCEL: (CANCELLABLE, "cancelled"),
    DELETE: ((SUCCEEDED, FAILED, CANCELED, EXPIRED), "deleted"),
}
#: How long a count may be repeated.
CONFIRM_S = 3600.0
#: How long one request goes on, and for how long at least it lets others write between two of its transactions.
BUDGET_S, PAUSE_S = 10.0, 0.01
#: Jobs in one transaction, and how long it goes on: SQLite has one writer at a time.
SOME, HOLD_S = 50, 0.03
_TOKEN = re.compile(r"([0-9]{1,15})-([0-9]{1,9})-([0-9a-f]{8}:[0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class BulkResult:
    """What was counted or done."""

    #: Nothing was done.
    is_dry: bool
    #: How many jobs were meant when they were counted.
    matched: int
    #: How many are meant now, before anything is done.
    by_status: Mapping[Status, int] = field(default_factory=dict)
    done: int = 0
    #: How many the same request, sent again, goes on with.
    left: int = 0
    #: What has to be repeated to have it done, and until when.
    confirm: str
    confirm_until_ms: int


class BulkService:
    """Cancelling and deleting by filters."""

    def __init__(self, settings: Settings, ledger: Ledger, publisher: JobPublisher, intake: Intake) -> None:
        self._settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._intake = intake

    def run(self, action: Action, body: BulkBody) -> BulkResult:
        """Count the jobs that a body means; with the word that they were counted, do it to them.

        Only jobs that were there when they were counted are meant.

        Raises:
          InvalidRequest: a filter is wrong, or the word is another's, of other jobs, or too old.
          MoreMatch: more jobs match than were counted.
          NotAllowed: another tenant's jobs are meant.
          LedgerUnavailable, StorageUnavailable: some may have been done; the same request goes on.
        """
        wanted = _filter_of(action, body)
        if body.confirm is None:
            return self._counted(action, wanted)
        counted_at_ms, matched = self._confirmed(action, wanted, body.confirm)
        wanted = replace(wanted, counted_at_ms=counted_at_ms)
        with ledger_time_limit():
            found = self._ledger.bulk.count(wanted)
        if (now := sum(found.values())) > matched:
            raise MoreMatch(f"{now} jobs match by now, and {matched} were counted. Nothing was done: count them again.")
        some = self._cancel_some if action == CANCEL else self._delete_some
        done = self._repeated(lambda: some(wanted)) if now else 0
        with ledger_time_limit():
            left = sum(self._ledger.bulk.count(wanted).values())
        return BulkResult(
            is_dry=False,
            matched=matched,
            by_status=found,
            done=done,
            left=left,
            confirm=body.confirm,
            confirm_until_ms=counted_at_ms + int(CONFIRM_S * 1000),
        )

    def _counted(self, action: Action, wanted: JobFilter) -> BulkResult:
        at_ms = now_ms()
        with ledger_time_limit():
            found = self._ledger.bulk.count(replace(wanted, counted_at_ms=at_ms))
        matched = sum(found.values())
        mark = self._ledger.bulk.mark(_said(action, wanted, at_ms, matched))
        return BulkResult(
            is_dry=True,
            matched=matched,
            by_status=found,
            left=matched,
            confirm=f"{at_ms}-{matched}-{mark}",
            confirm_until_ms=at_ms + int(CONFIRM_S * 1000),
        )

    def _confirmed(self, action: Action, wanted: JobFilter, confirm: str) -> tuple[int, int]:
        """Return when jobs were counted, and how many they were. Raises InvalidRequest."""
        parts = _TOKEN.fullmatch(confirm)
        if parts is None:
            raise InvalidRequest("confirm must be what the same request was answered without it.")
        at_ms, matched = int(parts[1]), int(parts[2])
        if not self._ledger.bulk.is_mark(_said(action, wanted, at_ms, matched), parts[3]):
            raise InvalidRequest(
                "confirm belongs to other jobs: send the request without it, and repeat what is answered."
            )
        if now_ms() > at_ms + CONFIRM_S * 1000:
            raise InvalidRequest("confirm is too old: send the request without it, and repeat what is answered.")
        return at_ms, matched

    def _repeated(self, some: Callable[[], int]) -> int:
        """Do some and some more until there are none, or the time of a request is over; returns how many."""
        done, until_s = 0, time.monotonic() + BUDGET_S
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            count = some()
            if not count:
                break
            done += count
            # Others have as much of the time as this has, however slow the machine is.
            time.sleep(max(PAUSE_S, time.monotonic() - began_s))
        return done

    def _cancel_some(self, wanted: JobFilter) -> int:
        with ledger_time_limit():
            moved = self._ledger.bulk.cancel_some(wanted, limit=SOME, hold_s=HOLD_S)
        for job in moved:
            publish_follow_up(self._publisher, Moved.of(job))
        return len(moved)

    def _delete_some(self, wanted: JobFilter) -> int:
        self._intake.require_storage()
        with ledger_time_limit():
            found = self._ledger.bulk.ids(wanted, limit=SOME)
        # The files first: who is interrupted here finds the jobs, and goes on.
        storage = output_storage(self._settings)
        for job_id in found:
            storage.remove_folder(job_id)
        with ledger_time_limit():
            return self._ledger.removal.delete_jobs(found, by=actor()) if found else 0


def _filter_of(action: Action, body: BulkBody) -> JobFilter:
    allowed, does = _ALLOWED[action]
    before_ms = _moment("created_before", body.created_before)
    return JobFilter(
        statuses=body.statuses(allowed, does=does),
        tenant=_tenant(body.tenant),
        from_ms=_moment("created_after", body.created_after),
        # As good as never, where nothing is said: those that are counted were there before that.
        until_ms=2**53 if before_ms is None else before_ms,
        label=body.label,
        template=body.template,
        batch=body.batch,
    )


def _moment(name: str, value: str | None) -> int | None:
    try:
        return fields.moment(name, value)
    except BadParameter as exc:
        # Of a query it is 400; of a body all that is wrong is 422.
        raise InvalidRequest(exc.message) from exc


def _tenant(wanted: str | None) -> str:
    """Return whose jobs are meant: the caller's own, where it does not say. Raises NotAllowed."""
    who = caller()
    if wanted in (None, who.tenant):
        return who.tenant
    if who.sees != ALL_TENANTS:
        raise NotAllowed("tenant: only keys of operators may name another tenant than their own.")
    return wanted or ALL_TENANTS


def _said(action: Action, wanted: JobFilter, at_ms: int, matched: int) -> str:
    return json.dumps([action, at_ms, matched, asdict(wanted)], sort_keys=True)
