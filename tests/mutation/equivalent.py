"""Mutants that no test can notice, as the mutation run prints them, each with the reason why."""

from __future__ import annotations

_EXPIRE = (
    "transaction.connection.execute(update(jobs).where(jobs.c.instance == instance, "
    "jobs.c.status.in_(sorted(LEASED))).values(lease_until_ms=0))"
)

_CLOCK = "headers: dict[str, Any] = {'clock': clock if type(clock) is int and 0 <= clock < _MAX_CLOCK else 0}"

_LINE = "line = _COUNTED if len(job_ids) <= FEW else _NUMBERED"

_SEALED = (
    "_SEALED = select(secrets.c.job_id, secrets.c.purpose, secrets.c.sealed).where("
    "secrets.c.job_id.in_(bindparam('wanted', expanding=True)), "
    "secrets.c.purpose.in_(bindparam('uses', expanding=True)))"
)

_WEBHOOKS = "_WEBHOOKS = select(jobs.c.id, jobs.c.webhook).where(jobs.c.id.in_(bindparam('wanted', expanding=True)))"

_TAKE = (
    "_TAKE = update(deliveries).where(deliveries.c.id.in_(select(deliveries.c.id).where("
    "deliveries.c.id.in_(bindparam('wanted', expanding=True)), _IS_DUE).with_for_update(skip_locked=True)))"
    ".values(state=SENDING, tries=deliveries.c.tries + 1, next_try_at_ms=bindparam('held_until'), "
    "updated_at_ms=bindparam('now')).returning(deliveries)"
)

_UNDER_WAY = (
    "_UNDER_WAY = select(deliveries.c.id, deliveries.c.tries, "
    "(deliveries.c.tries - deliveries.c.tries_before).label('tries_made')).where("
    "deliveries.c.id.in_(bindparam('wanted', expanding=True)), deliveries.c.state == SENDING)"
    ".order_by(deliveries.c.id).with_for_update()"
)

_EXPANDS = "SQLAlchemy expands any parameter of `in_`, whether it says so or not"

_FEW_SEEN = "durations.c.seen + 1"

_WEIGHT = f"weight = case(({_FEW_SEEN} < 1 / NEWEST, 1.0 / ({_FEW_SEEN})), else_=NEWEST)"

_UNREADABLE = "at, set_at = (0, 0)"

_INSIDE = "is_inside = getattr(self._own, 'depth', 0) > 0"

_READER = "return partial(record_from, records[0]) if records else None"

EQUIVALENT: dict[str, str] = {
    f"tasks/messaging/inbound.py: {_CLOCK}: 0 -> 1": "a clock of 0 stays 0, whether it is taken over or replaced",
    f"core/ledger/requeue.py: {_EXPIRE}: 0 -> 1": "any time in the past has lapsed",
    f"core/ledger/requeue.py: {_EXPIRE}: 0 -> -1": "any time in the past has lapsed",
    "tasks/runner/runner.py: was_on_deck: bool = False: False -> True": "each `Run` is made with a value",
    "tasks/runner/runner.py: is_attended: bool = False: False -> True": "each `Run` is made with a value",
    "tasks/runner/runner.py: posted_s: float = 0.0: 0.0 -> 1.0": "read only after the prompt was posted",
    "tasks/runner/runner.py: posted_s: float = 0.0: 0.0 -> -1.0": "read only after the prompt was posted",
    "core/ledger/jobs.py: FEW = 2: 2 -> 3": "both ways to number the queue give the same places; one is quicker",
    "core/ledger/jobs.py: FEW = 2: 2 -> 1": "both ways to number the queue give the same places; one is quicker",
    f"core/ledger/jobs.py: {_LINE}: len(job_ids) <= FEW -> len(job_ids) < FEW": "both give the same places",
    f"core/ledger/jobs.py: {_LINE}: len(job_ids) <= FEW -> len(job_ids) > FEW": "both give the same places",
    f"core/ledger/secrets.py: {_SEALED}: True -> False": _EXPANDS,
    f"core/ledger/webhooks/outbox.py: {_WEBHOOKS}: True -> False": _EXPANDS,
    f"core/ledger/webhooks/outbox.py: {_TAKE}: True -> False": _EXPANDS,
    f"core/ledger/webhooks/outbox.py: {_UNDER_WAY}: True -> False": _EXPANDS,
    "core/ledger/secrets.py: self._empty_log_at_s = 0.0: 0.0 -> -1.0": "any time of the monotonic clock is later",
    f"core/ledger/durations.py: {_WEIGHT}: {_FEW_SEEN} < 1 / NEWEST -> {_FEW_SEEN} <= 1 / NEWEST": (
        "1 / NEWEST is no whole number, and what is compared with it always is"
    ),
    f"core/ledger/timekeeping.py: {_UNREADABLE}: 0 -> 1": "a look so long ago means that the clock was set",
    f"core/ledger/timekeeping.py: {_UNREADABLE}: 0 -> -1": "a look so long ago means that the clock was set",
    f"core/ledger/database/fork_guard.py: {_INSIDE}: 0 -> -1": "one who was never inside has no depth above 0",
    "core/ledger/upgrade.py: ADVISORY_LOCK = 7263451009: 7263451009 -> 7263451010": "any number will do",
    "core/ledger/upgrade.py: ADVISORY_LOCK = 7263451009: 7263451009 -> 7263451008": "any number will do",
    "core/ledger/database/connections.py: cursor.close() -> pass": "it is closed when nobody refers to it any more",
    f"core/ledger/database/stored_fields.py: {_READER}: 0 -> -1": "no field may hold records of two kinds",
}
