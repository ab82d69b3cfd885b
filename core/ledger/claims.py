"""A GPU worker's side of the ledger: claim, lease, progress, and the good or bad end of a prompt.

Every write carries the attempt it was claimed with. A worker that was frozen, cut off or replaced meanwhile holds an
old attempt; its writes change nothing and it is told so.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, insert, select, update

from core.clock import now_ms
from core.errors import StaleAttempt
from core.ledger.database.connections import Change, Database, Transaction
from core.ledger.database.rows import JOB_COLUMNS, asset_row
from core.ledger.database.stored_fields import RowReader
from core.ledger.database.tables import assets, instances, job_errors, jobs
from core.ledger.scheduling.choice import Chooser, LookAgain
from core.ledger.secrets import end_run
from core.ledger.transitions import transition
from core.ledger.webhooks.outbox_writer import announce_progress
from core.metrics.counted import CLAIMS
from core.metrics.tally import process_tally
from core.records.access import DEFAULT_TENANT
from core.records.job import CANCELED, DELIVERING, FAILED, LEASED, QUEUED, RUNNING, InputRef, Status, prompt_id_of
from core.records.job_error import JobError, JobWarning
from core.records.output import OutputFile
from core.records.output_options import AS_THEY_ARE, OutputOptions
from core.records.progress import Progress
from core.records.usage import GpuTime
from core.trace_context import trace_id_of


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One attempt at one job, held by this worker until its lease lapses."""

    job_id: str
    attempt: int
    #: JSON text, API format.
    graph: str
    nodes_total: int
    timeout_s: float | None = None
    has_webhook: bool
    #: There are some that the run needs.
    has_secrets: bool
    #: It went through a gate, which lets the next one through when it ends.
    is_gated: bool = False
    #: As in `Job`.
    shape: str | None = None
    template: str | None = None
    #: JSON text: what ComfyUI gives to nodes that ask for it, and writes into files.
    extra_pnginfo: str | None = None
    #: What is to be done with its outputs.
    output_options: OutputOptions = AS_THEY_ARE
    #: Why an earlier attempt was lost: the code of the last one, or None.
    lost_code: str | None = None
    #: Files to be there before the prompt is posted.
    inputs: tuple[InputRef, ...] = ()
    tenant: str = DEFAULT_TENANT
    #: When the job came in.
    created_at_ms: int = 0
    #: As in `JobSpec`.
    traceparent: str | None = None
    #: How long the instance is expected to load models for it, 0 if it is taken to hold them, and then to run it.
    load_s: float = 0.0
    run_s: float = 0.0
    #: How long the instance would have loaded models for it, did it hold none of them.
    cold_load_s: float = 0.0
    #: The model files that its graph loads.
    models: tuple[str, ...] = ()

    @property
    def log_fields(self) -> dict[str, str | int | None]:
        """What log lines of it say it is, see `core.log_fields`."""
        trace_id = trace_id_of(self.traceparent)
        return {"job_id": self.job_id, "attempt": self.attempt, "tenant": self.tenant, "trace_id": trace_id}

    @property
    def prompt_id(self) -> str:
        """The id to post this attempt's prompt with."""
        return prompt_id_of(self.job_id, self.attempt)


#: What a claim has of its job as it is; the rest is found out when it is made.
_OF_THE_JOB = RowReader(
    Claim,
    without=(
        "job_id",
        "graph",
        "extra_pnginfo",
        "has_webhook",
        "has_secrets",
        "is_gated",
        "load_s",
        "run_s",
        "cold_load_s",
        "models",
    ),
)

_NEXT_ATTEMPT = jobs.c.attempt + 1
_ANY_QUEUED = select(jobs.c.id).where(jobs.c.status == QUEUED).limit(1)


class Claims:
    """What GPU workers, and the reconciler in their stead, do to jobs."""

    def __init__(self, database: Database, chooser: Chooser, *, lease_s: float) -> None:
        self._database = database
        self._chooser = chooser
        self._lease_ms = int(lease_s * 1000)

    def claim(
        self, instance: str, *, named: str | None = None, ahead: bool = False, worker: str | None = None
    ) -> Claim | None:
        """Take the next job for an instance, see `Chooser.choose`; nothing for one that is not healthy.

        Parameters:
          instance: who claims, `gpu0@host`.
          named: the job the turn was published for.
          ahead: it is at work still. It takes nothing that an idle instance would start now, and the job is then *on
            deck* until `begun`.
          worker: take nothing if another worker has the instance's name.
        Returns: the claim, or None when there is nothing to take, or nothing worth a load.
        """
        begun_s = time.monotonic()
        found = self._claim(instance, named=named, ahead=ahead, worker=worker)
        passed: frozenset[int] = frozenset()
        while isinstance(found, LookAgain):
            passed |= found.without
            found = self._claim(instance, named=named, ahead=ahead, worker=worker, without=passed)
        process_tally.observe(CLAIMS, time.monotonic() - begun_s, "none" if found is None else "claimed")
        return found

    def _claim(
        self, instance: str, *, named: str | None, ahead: bool, worker: str | None, without: Collection[int] = ()
    ) -> Claim | LookAgain | None:
        with self._database.write() as transaction:
            choice = self._chooser.choose(
                transaction, instance, named=named, worker=worker, ahead=ahead, without=without
            )
            if choice is None or isinstance(choice, LookAgain):
                return choice
            now = now_ms()
            # Its deadline is met; on deck it has not begun, and may come back as it was.
            met: dict[str, Any] = {} if ahead else {"start_by_ms": None}
            charge_s = self._chooser.charge_s(choice)
            row = transition(
                transaction,
                choice.job_id,
                RUNNING,
                data={"instance": instance},
                attempt=_NEXT_ATTEMPT,
                instance=instance,
                gpu=choice.gpu.device if choice.gpu.device is not None else choice.gpu.kind,
                lease_until_ms=now + self._lease_ms,
                started_at_ms=now,
                progress=None,
                on_deck=ahead,
                charged_ms=None if charge_s is None else round(charge_s * 1000),
                **met,
            )
            if row is None:
                return None
            self._chooser.note(transaction, choice, ahead=ahead)
        return Claim(
            job_id=choice.job_id,
            graph=choice.graph,
            extra_pnginfo=choice.extra_pnginfo,
            has_webhook=row.webhook is not None,
            has_secrets=choice.has_secrets,
            is_gated=choice.is_gated,
            load_s=choice.decision.load_s,
            run_s=choice.run_s,
            cold_load_s=choice.cold_load_s,
            models=choice.files,
            **_OF_THE_JOB.fields(row),
        )

    def anything_waits(self) -> bool:
        """Return whether a claim is worth trying; much cheaper than one."""
        with self._database.read() as connection:
            return connection.execute(_ANY_QUEUED).scalar() is not None

    def renew(self, claims: Collection[Claim]) -> dict[str, Status]:
        """Prolong the leases.

        Returns: `{job_id: status}` of those still held (`running`, or `canceling`: interrupt it). A claim that is
        missing was lost: stop working on it and write nothing.
        """
        held: dict[str, Status] = {}
        now = now_ms()
        with self._database.write() as transaction:
            renewed: list[tuple[Claim, Row[Any]]] = []
            for claim in sorted(claims, key=lambda claim: claim.job_id):
                row = transaction.connection.execute(
                    update(jobs)
                    .where(held_by(claim))
                    .values(lease_until_ms=now + self._lease_ms)
                    .returning(jobs.c.status, jobs.c.on_deck, jobs.c.started_at_ms, jobs.c.instance)
                ).one_or_none()
                if row is not None:
                    held[claim.job_id] = row.status
                    renewed.append((claim, row))
            # Jobs before instances, as everybody does: nobody waits in a circle.
            for claim, row in renewed:
                _note_overdue(transaction, claim, row, now)
        return held

    def begun(self, claim: Claim, *, behind_s: float = 0.0) -> None:
        """Note that a job on deck runs now: what happens to the instance from here on, happens to it.

        Parameters:
          behind_s: how long the jobs will run that the instance has taken behind it.
        """
        with self._database.write() as transaction:
            now = now_ms()
            began = update(jobs).where(held_by(claim)).values(on_deck=False, started_at_ms=now, start_by_ms=None)
            instance = transaction.connection.execute(began.returning(jobs.c.instance)).scalar()
            if instance is not None:
                # When it would begin was expected when it was claimed, and is known now.
                free_at_ms = now + int((claim.load_s + claim.run_s + behind_s) * 1000)
                transaction.connection.execute(
                    update(instances).where(instances.c.name == instance).values(free_at_ms=free_at_ms)
                )

    def progress(self, claim: Claim, snapshot: Progress) -> None:
        """Keep the newest progress of a running attempt, and tell its webhook if that wants to know.

        A stale attempt's is dropped.
        """
        with self._database.write() as transaction:
            row = transaction.connection.execute(
                update(jobs).where(held_by(claim)).values(progress=snapshot.to_json()).returning(*JOB_COLUMNS)
            ).one_or_none()
            if row is not None:
                transaction.changes.append(Change(job_id=claim.job_id, seq=row.last_seq, status=row.status))
                if row.status == RUNNING:
                    announce_progress(transaction, row)

    def generated(
        self,
        claim: Claim,
        files: Sequence[OutputFile],
        *,
        outputs_reused: bool,
        warnings: Sequence[JobWarning] = (),
        may_run_again: bool = False,
        spent: GpuTime | None = None,
    ) -> None:
        """Record what the GPU made, and leave the job to the io workers that store outputs.

        Parameters:
          warnings: what kept a part of it from running.
          may_run_again: should its files be lost before they are stored; what its run needs is kept until it ends.
          spent: as for `fail`.
        Raises: StaleAttempt - the job was cancelled meanwhile, or another attempt owns it.
        """
        with self._database.write() as transaction:
            now = now_ms()
            moved = transition(
                transaction,
                claim.job_id,
                DELIVERING,
                of_attempt=claim.attempt,
                spent=spent,
                lease_until_ms=None,
                generated_at_ms=now,
                outputs_reused=outputs_reused,
                warnings=[warning.to_json() for warning in warnings] or None,
            )
            if moved is None:
                raise StaleAttempt(f"Job {claim.job_id} attempt {claim.attempt} was overtaken; its result is dropped.")
            if claim.has_secrets and not may_run_again:
                end_run(transaction.connection, claim.job_id)
            if files:
                transaction.connection.execute(
                    insert(assets),
                    [
                        asset_row(file, attempt=claim.attempt, ordinal=ordinal, now=now)
                        for ordinal, file in enumerate(files)
                    ],
                )

    def fail(
        self, claim: Claim, error: JobError, *, whole: JobError | None = None, spent: GpuTime | None = None
    ) -> bool:
        """End the job as failed; False when the attempt is stale.

        Parameters:
          whole: the same at full length, where that is too much for everybody who looks at the job.
          spent: how long it had the GPU; None: since the ledger was told that it began.
        """
        told = error.to_json()
        with self._database.write() as transaction:
            moved = transition(transaction, claim.job_id, FAILED, of_attempt=claim.attempt, spent=spent, error=told)
            if moved is None:
                return False
            if whole is not None:
                packed = zlib.compress(json.dumps(whole.to_json()).encode())
                transaction.connection.execute(insert(job_errors).values(job_id=claim.job_id, error=packed))
            return True

    def canceled(self, claim: Claim, *, spent: GpuTime | None = None) -> bool:
        """Record that the GPU has let go of a job that was to be cancelled; False when the attempt is stale.

        Parameters: spent - as for `fail`.
        """
        with self._database.write() as transaction:
            return transition(transaction, claim.job_id, CANCELED, of_attempt=claim.attempt, spent=spent) is not None


def _note_overdue(transaction: Transaction, claim: Claim, row: Row[Any], now: int) -> None:
    """Let nobody wait for an instance as if it were free any moment: what is overdue takes as long again."""
    if row.on_deck or row.started_at_ms is None:
        return
    late_ms = now - row.started_at_ms - int((claim.load_s + claim.run_s) * 1000)
    if late_ms > 0:
        overdue = and_(instances.c.name == row.instance, instances.c.free_at_ms < now + late_ms)
        transaction.connection.execute(update(instances).where(overdue).values(free_at_ms=now + late_ms))


def held_by(claim: Claim) -> ColumnElement[bool]:
    """Return the condition that the job is still this attempt's."""
    return and_(jobs.c.id == claim.job_id, jobs.c.attempt == claim.attempt, jobs.c.status.in_(sorted(LEASED)))
