"""Mutants that no test can notice, as the mutation run prints them, each with the reason why."""

from __future__ import annotations

_EXPIRE = (
    "transaction.connection.execute(update(jobs).where(jobs.c.instance == instance, "
    "jobs.c.status.in_(sorted(LEASED))).values(lease_until_ms=0))"
)

_CLOCK = "headers: dict[str, Any] = {'clock': clock if type(clock) is int and 0 <= clock < _MAX_CLOCK else 0}"

_ALONE = "stack.enter_context(_alone(job_folder(root, files[0].job_id), root))"
_REFUSED = "if 400 <= answer.status_code < 500 and answer.status_code not in PASSING: ..."
_PAIRED = "found = [file.with_stored(each) for file, each in zip(wanted, done, strict=True)]"
_BROKEN = (
    "broken = [file for file, outcome in zip(files, outcomes, strict=True) "
    "if isinstance(outcome, ComfylineError) and file.size_bytes >= PART_BYTES]"
)
_HOLDER = "record = json.loads(os.pread(descriptor, 4096, 0))"
_LENGTH = "return name if len(name) <= MAX_NAME_CHARS else name[:MAX_NAME_CHARS - 12] + name[-12:]"
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
    f"tasks/outputs/store.py: {_ALONE}: 0 -> -1": "all files are of one job",
    "tasks/outputs/store.py: make_folder(target.parent, root) -> pass": "whoever holds the lock in it has made it",
    f"tasks/outputs/store.py: {_REFUSED}: 400 -> 399": "nobody answers 399",
    "tasks/outputs/finishing.py: folder = job_folder(root, files[0].job_id): 0 -> -1": "all files are of one job",
    "tasks/outputs/finishing.py: draft.parent.mkdir(parents=True, exist_ok=True) -> pass": "the originals are in it",
    "tasks/outputs/finishing.py: draft.parent.mkdir(parents=True, exist_ok=True): True -> False": (
        "for `parents`: the originals are in it"
    ),
    f"tasks/outputs/finishing.py: {_PAIRED}: True -> False": "the ids were compared, so there are as many",
    f"tasks/outputs/bucket_upload.py: {_BROKEN}: True -> False": "each file has an outcome",
    "tasks/instance/plan.py: return matches[0]: 0 -> -1": "there is one",
    "tasks/instance/directory_lock.py: os.ftruncate(descriptor, 0): 0 -> 1": "what is written over it is longer",
    f"tasks/instance/directory_lock.py: {_HOLDER}: 4096 -> 4097": "what it reads is far shorter",
    f"tasks/instance/directory_lock.py: {_HOLDER}: 4096 -> 4095": "what it reads is far shorter",
    "tasks/reconcile.py: set_ago_s = looks[0] if looks else 0.0: 0 -> -1": "there is one",
    "tasks/reconciling/repinning.py: self._next_look_s = 0.0: 0.0 -> 1.0": "set anew before the first look",
    "tasks/reconciling/repinning.py: self._next_look_s = 0.0: 0.0 -> -1.0": "set anew before the first look",
    "tasks/messaging/publish.py: self._closed_until_s = 0.0: 0.0 -> -1.0": "either is past",
    "tasks/messaging/publish.py: self._closed_until_s = 0.0: 0.0 -> 1.0": "either is past",
    "tasks/runner/collect.py: return False -> return None": "asked only whether it holds",
    f"tasks/runner/output_files.py: {_LENGTH}: len(name) <= MAX_NAME_CHARS -> len(name) < MAX_NAME_CHARS": (
        "188 characters and the last 12 are all of 200"
    ),
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
        "where they are equal, so are both weights"
    ),
    f"core/ledger/timekeeping.py: {_UNREADABLE}: 0 -> 1": "a look so long ago means that the clock was set",
    f"core/ledger/timekeeping.py: {_UNREADABLE}: 0 -> -1": "a look so long ago means that the clock was set",
    f"core/ledger/database/fork_guard.py: {_INSIDE}: 0 -> -1": "one who was never inside has no depth above 0",
    "core/ledger/upgrade.py: ADVISORY_LOCK = 7263451010: 7263451010 -> 7263451011": "any number will do",
    "core/ledger/upgrade.py: ADVISORY_LOCK = 7263451010: 7263451010 -> 7263451009": "any number will do",
    "core/ledger/database/connections.py: cursor.close() -> pass": "it is closed when nobody refers to it any more",
    f"core/ledger/database/stored_fields.py: {_READER}: 0 -> -1": "no field may hold records of two kinds",
}
