"""Short names for what tests do to a ledger, and the checks that hold for every job's log."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields, replace
from typing import Any, TypeVar

from sqlalchemy import update

from core.errors import ComfylineError
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import jobs
from core.ledger.secrets import PURPOSES
from core.records.job import TERMINAL, TRANSITIONS, Job, Status, new_job_id
from core.records.job_error import JobError
from core.records.job_request import AcceptedJob, JobRequest
from core.records.output import FileSource, OutputFile
from core.records.webhook_target import WebhookTarget

Result = TypeVar("Result")

WEBHOOK = WebhookTarget(url="http://hooks.example/x", timeout_s=5.0, extra_params={"user": 7})
ERROR = JobError(code="node_execution_error", message="boom", node_id="3", class_type="KSampler")


def submit(ledger: Ledger, **fields: Any) -> Job:
    """Record a job, see `accepted`."""
    return ledger.jobs.submit(accepted(**fields))


def accepted(**given: Any) -> AcceptedJob:
    """A job with an id of its own, as the check lets it through; fields of its request among those of the record."""
    asked: dict[str, Any] = {"contract": "v2", "graph": {"1": {}}}
    added: dict[str, Any] = {"id": new_job_id(), "graph_text": '{"1":{}}', "nodes_total": 1}
    own = {field.name for field in fields(AcceptedJob)}
    for name, value in given.items():
        (added if name in own else asked)[name] = value
    return AcceptedJob(request=JobRequest(**asked), **added)


def digest_of(ledger: Ledger, name: str) -> str:
    """The catalogue of an instance."""
    [digest] = [digest for digest, names in ledger.instances.catalogues().items() if name in names]
    return digest


def claimed(ledger: Ledger, instance: str = "gpu0@here", **fields: Any) -> Claim:
    """Record a job and claim it."""
    job = submit(ledger, **fields)
    claim = ledger.claims.claim(instance, named=job.id)
    assert claim is not None
    assert claim.job_id == job.id
    return claim


def generated(ledger: Ledger, *, files: int = 1, **fields: Any) -> Claim:
    """Record a job and bring it to `delivering`."""
    claim = claimed(ledger, **fields)
    ledger.claims.generated(claim, [produced(claim, number) for number in range(files)], outputs_reused=False)
    return claim


def succeeded(ledger: Ledger, *, files: int = 1, **fields: Any) -> Claim:
    """Record a job and bring it to `succeeded`."""
    claim = generated(ledger, files=files, **fields)
    pending = ledger.outputs.pending(claim.job_id, claim.attempt).files
    ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(file) for file in pending])
    return claim


def produced(claim: Claim, number: int = 0) -> OutputFile:
    """One output as an instance reports it."""
    return OutputFile(
        id=str(uuid.uuid4()),
        job_id=claim.job_id,
        node_id="9",
        name=f"out_{number:05}_.png",
        kind="image",
        content_type="image/png",
        source=FileSource(path=f"/gpu0/out_{number:05}_.png"),
    )


def stored(file: OutputFile) -> OutputFile:
    """The file as it is in storage."""
    return replace(file, storage_key=f"k/{file.id}", size_bytes=10, hash="blake3:" + "0" * 64)


def secrets_of(ledger: Ledger, job_id: str) -> dict[str, Any]:
    """All that can still be opened of what came with a job, by the names in `JobRequest.secrets`."""
    opened = [ledger.secrets.open(job_id, purpose) for purpose in sorted(set(PURPOSES.values()))]
    return {name: value for part in opened for name, value in part.items()}


def lapse(ledger: Ledger, job_id: str) -> None:
    """Let the lease of a job run out now, as if its worker had been silent for long."""
    set_columns(ledger, job_id, lease_until_ms=1)


def set_columns(ledger: Ledger, job_id: str, **values: Any) -> None:
    """Write columns of a job as time alone would have changed them."""
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values))


def register(ledger: Ledger, name: str, object_info: dict[str, Any] | None = None) -> None:
    """Make a healthy instance known."""
    ledger.instances.register(name=name, host="here", worker=f"w-{name}", kind="simulator", gpu=None)
    ledger.instances.up(
        name,
        worker=f"w-{name}",
        url="http://127.0.0.1:1",
        output_dir=None,
        version="0.3.64",
        device=None,
        object_info=object_info or {"KSampler": {}},
        restarts=0,
    )


def in_parallel(count: int, function: Callable[[int], Result]) -> list[Result | ComfylineError]:
    """Run `function(0)` to `function(count - 1)` at the same moment.

    Returns: what they returned, in the order they ended; an error of ours is a result too. Other errors are raised.
    """
    start = threading.Barrier(count)

    def run(number: int) -> Result | ComfylineError:
        start.wait()
        try:
            return function(number)
        except ComfylineError as exc:
            return exc

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in as_completed(pool.submit(run, number) for number in range(count))]


def check_log(ledger: Ledger, job_id: str) -> list[Status]:
    """The job's log has no gap, follows the life cycle and ends once; returns its statuses in order."""
    job = ledger.jobs.get(job_id)
    events = ledger.jobs.events(job_id)
    assert [event.seq for event in events] == list(range(1, job.last_seq + 1))
    statuses: list[Status] = [event.data["status"] for event in events if event.type == "status"]
    assert statuses[0] == "queued"
    assert statuses[-1] == job.status
    assert all(after in TRANSITIONS[before] for before, after in itertools.pairwise(statuses))
    assert sum(status in TERMINAL for status in statuses) == int(job.is_terminal)
    if job.is_terminal:
        assert events[-1].data["status"] == job.status
    return statuses
