"""A job's stored files on their way into a bucket: the client's, or the operator's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from core.buckets.block import environment_credentials
from core.buckets.bucket import LINK_S, PART_BYTES, SLOWEST_BYTES_PER_S, Bucket, limit_s
from core.buckets.presigned import public_link, put
from core.buckets.put_urls import PutUrls
from core.clock import now_ms
from core.errors import (
    AddressRefused,
    ComfylineError,
    ConfigurationError,
    PermanentError,
    SecretUnreadable,
    UploadFailed,
    UploadRefused,
)
from core.ledger.secrets import BUCKET
from core.ledger.webhooks.outbox_writer import receiver_of
from core.object_keys import KeyFields, object_key
from core.outbound import Policy
from core.records.bucket_target import ENVIRONMENT, PUT_URLS, BucketTarget, Credentials
from core.records.job import Job
from core.records.output import BucketResult, OutputFile
from core.storage.backend import output_storage
from tasks.outputs.endpoints import EndpointRests, Endpoints, Passage
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Between the two tries that a refusal gets: new credentials take a moment to be known everywhere.
SECOND_TRY_S = 1.0
#: How long parts that were left in the bucket may take to be removed.
CLEANING_S = 15.0
#: An endpoint that nobody knows to answer is given up after this; to a URL to put to it answers only after the file.
FIRST_ANSWER_S = 10.0

#: For each file where it is, or what went wrong.
Outcomes: TypeAlias = list[BucketResult | ComfylineError]

_endpoints = Endpoints()


class _NoUrl(UploadRefused):
    """A client has signed no URL for a file."""


class Sender(Protocol):
    """What puts files into one bucket."""

    def send(self, file: OutputFile) -> BucketResult:
        """Put one file there; returns where it is. Raises as `Bucket.upload`."""


def upload_files(runtime: Runtime, job: Job, files: Sequence[OutputFile], *, give_up_at_ms: int) -> list[OutputFile]:
    """Put each file into the bucket that the job names; one that is there already is not sent again.

    Parameters:
      give_up_at_ms: from then on a file that is not there stays out, and says why.
    Returns: the files, each with its `bucket_result`.
    Raises:
      UploadFailed: a file is not there, or there is no room for it now; another turn may help.
      LedgerUnavailable: the credentials cannot be read now.
      OSError: a file cannot be read.
    """
    target = job.output_options.bucket
    assert target is not None, "else there is nothing to upload"
    try:
        outcomes = _sent(runtime, job, target, files)
    except (ConfigurationError, UploadRefused, SecretUnreadable) as exc:
        return [_noted(file, exc) for file in files]
    except EndpointRests as exc:
        outcomes = [UploadFailed(str(exc)) for _ in files]
    for outcome in outcomes:
        if isinstance(outcome, UploadFailed) and now_ms() < give_up_at_ms:
            raise outcome
    missing = sum(isinstance(outcome, ComfylineError) for outcome in outcomes)
    if missing:
        log.warning("job %s: %d of %d files are not in the bucket", job.id, missing, len(files))
        if target.origin != PUT_URLS:
            _clean(runtime, job, target, files, outcomes)
    return [_noted(file, outcome) for file, outcome in zip(files, outcomes, strict=True)]


def _sent(runtime: Runtime, job: Job, target: BucketTarget, files: Sequence[OutputFile]) -> Outcomes:
    time_s = limit_s(sum(file.size_bytes for file in files))
    secrets = {} if target.origin == ENVIRONMENT else runtime.ledger.secrets.open(job.id, BUCKET)
    sealed = secrets.get("s3")
    if target.origin == PUT_URLS:
        if not sealed:
            raise ConfigurationError("the server no longer has the URLs to put files to")
        urls = PutUrls.from_json(sealed).for_files([file.stored_name for file in files])
        with _endpoints.passage(_host_of(urls)) as passage:
            sender = _PutSender(runtime, target, files, urls, passage, time_s)
            return _judged(_send_all(sender, job, files), passage)
    with (
        _endpoints.passage(_endpoint_of(target)) as passage,
        _opened(runtime, target, sealed, time_s, passage) as bucket,
    ):
        outcomes = _send_all(_BucketSender(bucket, job, target, output_storage(runtime.settings).workplace), job, files)
        return _judged(outcomes, passage)


def _judged(outcomes: Outcomes, passage: Passage) -> Outcomes:
    """Note what the outcomes say of the endpoint: a refusal is an answer, and nothing was asked of it for no files."""
    if outcomes:
        passage.is_well = not all(isinstance(outcome, UploadFailed) for outcome in outcomes)
    return outcomes


def _endpoint_of(target: BucketTarget) -> str:
    if target.endpoint_url is None:
        # Amazon is one endpoint for everybody: what it holds apart are buckets.
        return f"aws:{target.region}:{target.bucket_name}"
    return receiver_of(target.endpoint_url)


def _host_of(urls: Sequence[str | None]) -> str:
    return receiver_of(next((url for url in urls if url is not None), ""))


def _opened(
    runtime: Runtime, target: BucketTarget, sealed: dict[str, Any] | None, time_s: float, passage: Passage | None = None
) -> Bucket:
    """Open the bucket with the credentials of its owner; the guard is for addresses that clients name."""
    if target.origin == ENVIRONMENT:
        credentials, policy = environment_credentials(runtime.settings), Policy.of_operator(runtime.settings)
    else:
        credentials = Credentials.from_json(sealed) if sealed else None
        policy = Policy.from_settings(runtime.settings)
    if credentials is None:
        raise ConfigurationError("the server no longer has the credentials of the bucket")
    return Bucket(
        target,
        credentials,
        policy,
        limit_s=time_s,
        first_answer_s=FIRST_ANSWER_S if passage is not None and passage.is_unproven else None,
        on_answer=None if passage is None else passage.answered,
    )


def _send_all(sender: Sender, job: Job, files: Sequence[OutputFile]) -> Outcomes:
    """Send the files; what was refused gets two tries."""
    outcomes = [_try(sender, job, file) for file in files]
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PermanentError)]
    if refused:
        time.sleep(SECOND_TRY_S)
    for number in refused:
        outcomes[number] = _try(sender, job, files[number])
    return outcomes


def _try(sender: Sender, job: Job, file: OutputFile) -> BucketResult | ComfylineError:
    try:
        return sender.send(file)
    except _NoUrl as exc:
        log.warning("job %s: output %d was not uploaded: there is no URL for it", job.id, file.ordinal)
        return exc
    except (AddressRefused, UploadFailed, UploadRefused) as exc:
        # Without the file's name: it comes from the graph, which is its client's.
        log.warning("job %s: output %d was not uploaded: %s", job.id, file.ordinal, exc)
        return exc


class _BucketSender:
    """Signs by itself, and makes the keys."""

    def __init__(self, bucket: Bucket, job: Job, target: BucketTarget, root: Path) -> None:
        self._bucket = bucket
        self._key = partial(_key, job, target)
        self._is_public = target.public_url is not None
        self._root = root

    def send(self, file: OutputFile) -> BucketResult:
        key = self._key(file)
        assert file.hash is not None, "it is in storage"
        self._bucket.upload(key, file.path_below(self._root), content_type=file.content_type, digest=file.hash)
        expires_at_ms = None if self._is_public else now_ms() + LINK_S * 1000
        return BucketResult(url=self._bucket.link(key), key=key, expires_at_ms=expires_at_ms)


class _PutSender:
    """Uses what the client has signed."""

    def __init__(
        self,
        runtime: Runtime,
        target: BucketTarget,
        files: Sequence[OutputFile],
        urls: Sequence[str | None],
        passage: Passage,
        time_s: float,
    ) -> None:
        self._urls = dict(zip((file.ordinal for file in files), urls, strict=True))
        self._target = target
        self._root = output_storage(runtime.settings).workplace
        self._passage = passage
        ends_at_s = time.monotonic() + time_s
        self._left_s: Callable[[], float] = lambda: max(ends_at_s - time.monotonic(), 0.001)
        self._policy = Policy.from_settings(runtime.settings)
        self._has_answered = not passage.is_unproven

    def send(self, file: OutputFile) -> BucketResult:
        url = self._urls[file.ordinal]
        if url is None:
            raise _NoUrl(f"s3.put_urls has no URL for {file.stored_name}")
        left_s = self._left_s()
        if not self._has_answered:
            left_s = min(left_s, FIRST_ANSWER_S + file.size_bytes / SLOWEST_BYTES_PER_S)
        put(
            url,
            file.path_below(self._root),
            content_type=file.content_type,
            target=self._target,
            policy=self._policy,
            limit_s=left_s,
        )
        self._has_answered = True
        self._passage.answered()
        return BucketResult(url=public_link(url, self._target))


def _key(job: Job, target: BucketTarget, file: OutputFile) -> str:
    submitted = datetime.fromtimestamp(job.created_at_ms // 1000, tz=timezone.utc)
    fields = KeyFields(
        prefix=target.prefix,
        job_id=job.id,
        request_id=job.request_id or job.id,
        filename=file.stored_name,
        node_id=file.node_id,
        ordinal=file.ordinal,
        date=f"{submitted:%Y-%m-%d}",
    )
    return object_key(target.key_template, fields)


def _clean(runtime: Runtime, job: Job, target: BucketTarget, files: Sequence[OutputFile], outcomes: Outcomes) -> None:
    """Remove what a file in parts that did not arrive whole has left in the bucket."""
    broken = [
        file
        for file, outcome in zip(files, outcomes, strict=True)
        if isinstance(outcome, ComfylineError) and file.size_bytes >= PART_BYTES
    ]
    if broken:
        secrets = {} if target.origin == ENVIRONMENT else runtime.ledger.secrets.open(job.id, BUCKET)
        with _opened(runtime, target, secrets.get("s3"), CLEANING_S) as bucket:
            for file in broken:
                bucket.clean(_key(job, target, file))


def _noted(file: OutputFile, outcome: BucketResult | ComfylineError) -> OutputFile:
    result = BucketResult(error=outcome.message) if isinstance(outcome, ComfylineError) else outcome
    return replace(file, bucket_result=result)
