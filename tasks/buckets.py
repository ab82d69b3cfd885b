"""A job's stored files on their way into a bucket: the client's, or the operator's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core.bucket import LINK_S, PART_BYTES, Bucket, limit_s
from core.errors import AddressRefused, ConfigurationError, DeliveryFailed, DeliveryRefused, FleetError, PermanentError
from core.ledger.database import now_ms
from core.ledger.delivery import StoredFile
from core.outbound import UNRESTRICTED, Policy
from core.s3 import REQUEST, Credentials, Target, environment_credentials, key_of
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Between the two tries that a refusal gets: new credentials take a moment to be known everywhere.
SECOND_TRY_S = 1.0
#: How long parts that were left in the bucket may take to be removed.
CLEANING_S = 15.0


def upload_files(
    runtime: Runtime, job_id: str, target: Target, stored: list[StoredFile], *, give_up_at_ms: int
) -> list[StoredFile]:
    """Put each file into the bucket; one that is there already is not sent again.

    Parameters:
      give_up_at_ms: from then on a file that is not there stays out, and says why.
    Returns: the files, each with `{"url", "expires_at_ms", "key"}` or `{"error"}` in its `upload`.
    Raises:
      DeliveryFailed: a file is not there, and another turn may help.
      LedgerUnavailable: the credentials cannot be read now.
      OSError: a file cannot be read.
    """
    try:
        credentials, policy = _access(runtime, job_id, target)
        opened = partial(Bucket, target, credentials, policy)
        outcomes = _put_all(opened, target, job_id, runtime.settings.outputs_dir, stored)
    except (ConfigurationError, DeliveryRefused) as exc:
        return [_noted(file, exc) for file in stored]
    for outcome in outcomes:
        if isinstance(outcome, DeliveryFailed) and now_ms() < give_up_at_ms:
            raise outcome
    missing = [file for file, outcome in zip(stored, outcomes, strict=True) if isinstance(outcome, FleetError)]
    if missing:
        log.warning("job %s: %d of %d files are not in the bucket", job_id, len(missing), len(stored))
    if any(file.size_bytes >= PART_BYTES for file in missing):
        with opened(limit_s=CLEANING_S) as bucket:
            for file in missing:
                bucket.clean(_key(target, job_id, file))
    return [_noted(file, outcome) for file, outcome in zip(stored, outcomes, strict=True)]


def _access(runtime: Runtime, job_id: str, target: Target) -> tuple[Credentials, Policy]:
    """Who signs, and what may be connected to: the guard is for addresses that clients name."""
    if target.origin == REQUEST:
        sealed = runtime.ledger.jobs.secrets(job_id).get("s3")
        credentials = Credentials.from_json(sealed) if sealed else None
        policy = Policy.from_settings(runtime.settings)
    else:
        credentials, policy = environment_credentials(runtime.settings), UNRESTRICTED
    if credentials is None:
        raise ConfigurationError("the server no longer has the credentials of the bucket")
    return credentials, policy


def _put_all(
    opened: Callable[..., Bucket], target: Target, job_id: str, root: Path, stored: list[StoredFile]
) -> list[dict[str, Any] | FleetError]:
    """Upload the files; for each what its `upload` is to say, or what went wrong. What was refused gets two tries."""
    with opened(limit_s=limit_s(sum(file.size_bytes for file in stored))) as bucket:
        outcomes = [_put(bucket, target, job_id, root, file) for file in stored]
        refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, PermanentError)]
        if refused:
            time.sleep(SECOND_TRY_S)
        for number in refused:
            outcomes[number] = _put(bucket, target, job_id, root, stored[number])
    return outcomes


def _put(bucket: Bucket, target: Target, job_id: str, root: Path, file: StoredFile) -> dict[str, Any] | FleetError:
    key = _key(target, job_id, file)
    content_type = file.content_type or "application/octet-stream"
    try:
        bucket.upload(key, root / file.storage_key, content_type=content_type, digest=file.hash)
        return {"url": bucket.link(key), "expires_at_ms": now_ms() + LINK_S * 1000, "key": key}
    except (AddressRefused, DeliveryFailed, DeliveryRefused) as exc:
        log.warning("job %s: %s not uploaded: %s", job_id, file.storage_key, exc)
        return exc


def _key(target: Target, job_id: str, file: StoredFile) -> str:
    # Names within one job differ in storage, where those its nodes gave need not.
    return key_of(target, job_id, file.storage_key.partition("/")[2])


def _noted(file: StoredFile, outcome: dict[str, Any] | FleetError) -> StoredFile:
    said = {"error": outcome.message} if isinstance(outcome, FleetError) else outcome
    return replace(file, upload={**(file.upload or {}), **said})
