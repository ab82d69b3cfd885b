"""A job's stored files on their way into a bucket: the client's, or the operator's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from core.buckets.block import environment_credentials
from core.buckets.bucket import LINK_S, PART_BYTES, SLOWEST_BYTES_PER_S, Bucket, limit_s
from core.buckets.presigned import public_link, put
from core.buckets.put_urls import PutUrls
from core.buckets.target import ENVIRONMENT, PUT_URLS, BucketTarget, Credentials
from core.clock import now_ms
from core.errors import (
    AddressRefused,
    ComfylineError,
    ConfigurationError,
    DeliveryFailed,
    DeliveryRefused,
    PermanentError,
    SecretUnreadable,
)
from core.job import Job
from core.ledger.outputs import StoredFile
from core.ledger.secrets import BUCKET
from core.ledger.webhooks.outbox_writer import receiver_of
from core.object_keys import KeyFields, object_key
from core.outbound import Policy
from tasks.outputs.endpoints import EndpointRests, Endpoints, Passage
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Between the two tries that a refusal gets: new credentials take a moment to be known everywhere.
SECOND_TRY_S = 1.0
#: How long parts that were left in the bucket may take to be removed.
CLEANING_S = 15.0
#: An endpoint that nobody knows to answer is given up after this; to a URL to put to it answers only after the file.
FIRST_ANSWER_S = 10.0

#: For each file what its `upload` is to say, or what went wrong.
Outcomes: TypeAlias = list[dict[str, Any] | ComfylineError]

_endpoints = Endpoints()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file to be put into a bucket."""

    file: StoredFile
    node_id: str
    #: Its place among the outputs of its job, from 1.
    ordinal: int
    content_type: str

    @property
    def name(self) -> str:
        """Names within one job differ in storage, where those its nodes gave need not."""
        return self.file.storage_key.partition("/")[2]


class _NoUrl(DeliveryRefused):
    """A client has signed no URL for a file."""


class Sender(Protocol):
    """What puts files into one bucket."""

    def send(self, item: Item) -> dict[str, Any]:
        """Put one file there; returns what its `upload` is to say. Raises as `Bucket.upload`."""


def upload_files(runtime: Runtime, job: Job, items: Sequence[Item], *, give_up_at_ms: int) -> list[StoredFile]:
    """Put each file into the bucket that the job names; one that is there already is not sent again.

    Parameters:
      give_up_at_ms: from then on a file that is not there stays out, and says why.
    Returns: the files, each with `{"url", "expires_at_ms"?, "key"?}` or `{"error"}` in its `upload`. The url is None
      where nobody but the client knows one.
    Raises:
      DeliveryFailed: a file is not there, or there is no room for it now; another turn may help.
      LedgerUnavailable: the credentials cannot be read now.
      OSError: a file cannot be read.
    """
    target = job.output_options.bucket
    assert target is not None, "else there is nothing to upload"
    try:
        outcomes = _sent(runtime, job, target, items)
    except (ConfigurationError, DeliveryRefused, SecretUnreadable) as exc:
        return [_noted(item.file, exc) for item in items]
    except EndpointRests as exc:
        outcomes = [DeliveryFailed(str(exc)) for _ in items]
    for outcome in outcomes:
        if isinstance(outcome, DeliveryFailed) and now_ms() < give_up_at_ms:
            raise outcome
    missing = sum(isinstance(outcome, ComfylineError) for outcome in outcomes)
    if missing:
        log.warning("job %s: %d of %d files are not in the bucket", job.id, missing, len(items))
        if target.origin != PUT_URLS:
            _clean(runtime, job, target, items, outcomes)
    return [_noted(item.file, outcome) for item, outcome in zip(items, outcomes, strict=True)]


def _sent(runtime: Runtime, job: Job, target: BucketTarget, items: Sequence[Item]) -> Outcomes:
    time_s = limit_s(sum(item.file.size_bytes for item in items))
    secrets = {} if target.origin == ENVIRONMENT else runtime.ledger.secrets.open(job.id, BUCKET)
    sealed = secrets.get("s3")
    if target.origin == PUT_URLS:
        if not sealed:
            raise ConfigurationError("the server no longer has the URLs to put files to")
        urls = PutUrls.from_json(sealed).for_files([item.name for item in items])
        with _endpoints.passage(_host_of(urls)) as passage:
            sender = _PutSender(runtime, target, items, urls, passage, time_s)
            return _judged(_send_all(sender, job, items), passage)
    with (
        _endpoints.passage(_endpoint_of(target)) as passage,
        _opened(runtime, target, sealed, time_s, passage) as bucket,
    ):
        outcomes = _send_all(_BucketSender(bucket, job, target, runtime.settings.outputs_dir), job, items)
        return _judged(outcomes, passage)


def _judged(outcomes: Outcomes, passage: Passage) -> Outcomes:
    """Tell what the outcomes say of the endpoint: a refusal is an answer, and nothing was asked of it for no files."""
    if outcomes:
        passage.is_well = not all(isinstance(outcome, DeliveryFailed) for outcome in outcomes)
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
    """The bucket, signed for by whom it belongs to; the guard is for addresses that clients name."""
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
        first_answer_s=FIRST_ANSWER_S if passage is not None and passage.is_doubtful else None,
        on_answer=None if passage is None else passage.answered,
    )


def _send_all(sender: Sender, job: Job, items: Sequence[Item]) -> Outcomes:
    """Send the files; for each what its `upload` is to say, or what went wrong. What was refused gets two tries."""
    outcomes = [_try(sender, job, item) for item in items]
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PermanentError)]
    if refused:
        time.sleep(SECOND_TRY_S)
    for number in refused:
        outcomes[number] = _try(sender, job, items[number])
    return outcomes


def _try(sender: Sender, job: Job, item: Item) -> dict[str, Any] | ComfylineError:
    try:
        return sender.send(item)
    except _NoUrl as exc:
        log.warning("job %s: output %d was not uploaded: there is no URL for it", job.id, item.ordinal)
        return exc
    except (AddressRefused, DeliveryFailed, DeliveryRefused) as exc:
        # Without the file's name: it comes from the graph, which is its client's.
        log.warning("job %s: output %d was not uploaded: %s", job.id, item.ordinal, exc)
        return exc


class _BucketSender:
    """Signs by itself, and makes the keys."""

    def __init__(self, bucket: Bucket, job: Job, target: BucketTarget, root: Path) -> None:
        self._bucket = bucket
        self._key = partial(_key, job, target)
        self._is_public = target.public_url is not None
        self._root = root

    def send(self, item: Item) -> dict[str, Any]:
        key, file = self._key(item), item.file
        self._bucket.upload(key, self._root / file.storage_key, content_type=item.content_type, digest=file.hash)
        ends = {} if self._is_public else {"expires_at_ms": now_ms() + LINK_S * 1000}
        return {"url": self._bucket.link(key), "key": key, **ends}


class _PutSender:
    """Uses what the client has signed."""

    def __init__(
        self,
        runtime: Runtime,
        target: BucketTarget,
        items: Sequence[Item],
        urls: Sequence[str | None],
        passage: Passage,
        time_s: float,
    ) -> None:
        self._urls = dict(zip((item.ordinal for item in items), urls, strict=True))
        self._target = target
        self._root = runtime.settings.outputs_dir
        self._passage = passage
        ends_at_s = time.monotonic() + time_s
        self._left_s: Callable[[], float] = lambda: max(ends_at_s - time.monotonic(), 0.001)
        self._policy = Policy.from_settings(runtime.settings)
        self._has_answered = not passage.is_doubtful

    def send(self, item: Item) -> dict[str, Any]:
        url = self._urls[item.ordinal]
        if url is None:
            raise _NoUrl(f"s3.put_urls has no URL for {item.name}")
        left_s = self._left_s()
        if not self._has_answered:
            left_s = min(left_s, FIRST_ANSWER_S + item.file.size_bytes / SLOWEST_BYTES_PER_S)
        put(
            url,
            self._root / item.file.storage_key,
            content_type=item.content_type,
            target=self._target,
            policy=self._policy,
            limit_s=left_s,
        )
        self._has_answered = True
        self._passage.answered()
        return {"url": public_link(url, self._target)}


def _key(job: Job, target: BucketTarget, item: Item) -> str:
    submitted = datetime.fromtimestamp(job.created_at_ms // 1000, tz=timezone.utc)
    fields = KeyFields(
        prefix=target.prefix,
        job_id=job.id,
        request_id=job.request_id or job.id,
        filename=item.name,
        node_id=item.node_id,
        ordinal=item.ordinal,
        date=f"{submitted:%Y-%m-%d}",
    )
    return object_key(target.key_template, fields)


def _clean(runtime: Runtime, job: Job, target: BucketTarget, items: Sequence[Item], outcomes: Outcomes) -> None:
    """Remove what a file in parts that did not arrive whole has left in the bucket."""
    broken = [
        item
        for item, outcome in zip(items, outcomes, strict=True)
        if isinstance(outcome, ComfylineError) and item.file.size_bytes >= PART_BYTES
    ]
    if broken:
        secrets = {} if target.origin == ENVIRONMENT else runtime.ledger.secrets.open(job.id, BUCKET)
        with _opened(runtime, target, secrets.get("s3"), CLEANING_S) as bucket:
            for item in broken:
                bucket.clean(_key(job, target, item))


def _noted(file: StoredFile, outcome: dict[str, Any] | ComfylineError) -> StoredFile:
    said = {"error": outcome.message} if isinstance(outcome, ComfylineError) else outcome
    return replace(file, upload={**(file.upload or {}), **said})
