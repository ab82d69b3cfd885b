"""Secrets in the ledger: sealed, each opened for its own purpose only, and wiped when that is served."""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select, text, update

from core.clock import now_ms
from core.errors import PromptFailed, SecretUnreadable
from core.ledger import Ledger
from core.ledger.database.connections import Database
from core.ledger.database.tables import events, jobs, secrets
from core.ledger.sealing import load_keys
from core.ledger.secrets import BUCKET, RUN, WEBHOOK
from core.ledger.upgrade import alembic_config, migrate
from core.ledger.webhooks.outbox import TryResult
from core.records.job import CANCELED, FAILED, SUCCEEDED
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.runner.attempt_end import Failed
from tasks.runner.recorder import Recorder
from tasks.runtime import equip
from tests.ledger_moves import ERROR, claimed, generated, stored, submit
from tests.ledger_moves import WEBHOOK as HOOK
from tests.services import make_settings

ALL: dict[str, Any] = {
    "api_key_comfy_org": "partner-plain",
    "s3": {"access_key_id": "AKIA-plain", "secret_access_key": "hunter2-plain", "session_token": None},
    "webhook_secret": ["whsec-plain"],
}
PARTS = {RUN: "api_key_comfy_org", BUCKET: "s3", WEBHOOK: "webhook_secret"}


def rows(ledger: Ledger, job_id: str) -> dict[str, bytes | None]:
    with ledger.database.read() as connection:
        query = select(secrets.c.purpose, secrets.c.sealed).where(secrets.c.job_id == job_id)
        return {row.purpose: row.sealed for row in connection.execute(query)}


def left(ledger: Ledger, job_id: str) -> set[str]:
    """The purposes for which something can still be opened."""
    return {purpose for purpose, sealed in rows(ledger, job_id).items() if sealed is not None}


def deliver(ledger: Ledger, job_id: str) -> None:
    posts = ledger.outbox.take([due.id for due in ledger.outbox.due(job_ids=[job_id])])
    ledger.outbox.record([(post, TryResult(at_ms=now_ms(), duration_ms=1, status_code=200)) for post in posts])


def end(ledger: Ledger, status: str, **fields: Any) -> str:
    if status == CANCELED:
        return ledger.jobs.cancel(submit(ledger, **fields).id).id
    if status == FAILED:
        claim = claimed(ledger, **fields)
        ledger.claims.fail(claim, ERROR)
        return claim.job_id
    claim = generated(ledger, **fields)
    pending = ledger.outputs.pending(claim.job_id, claim.attempt).files
    ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(file) for file in pending])
    return claim.job_id


def test_each_purpose_opens_its_own_and_nothing_shows(ledger: Ledger) -> None:
    job = submit(ledger, secrets=ALL)

    for purpose, name in PARTS.items():
        assert ledger.secrets.open(job.id, purpose) == {name: ALL[name]}
    assert len(rows(ledger, job.id)) == len(PARTS)
    with ledger.database.read() as connection:
        shown = [repr(row) for table in (jobs, events, secrets) for row in connection.execute(select(table))]
    assert not any("plain" in row for row in shown)
    assert ledger.secrets.open(submit(ledger).id, RUN) == {}


def test_a_row_moved_to_another_job_or_purpose_does_not_open(ledger: Ledger) -> None:
    first, second = submit(ledger, secrets=ALL), submit(ledger, secrets=ALL)
    sealed = rows(ledger, first.id)
    with ledger.database.write() as transaction:
        for job_id, purpose, other in ((second.id, RUN, RUN), (first.id, BUCKET, WEBHOOK)):
            place = (secrets.c.job_id == job_id) & (secrets.c.purpose == purpose)
            transaction.connection.execute(update(secrets).where(place).values(sealed=sealed[other]))

    for job_id, purpose in ((second.id, RUN), (first.id, BUCKET)):
        with pytest.raises(SecretUnreadable):
            ledger.secrets.open(job_id, purpose)


def test_the_partner_key_goes_when_the_gpu_is_done(ledger: Ledger) -> None:
    claim = claimed(ledger, secrets=ALL)
    assert claim.has_secrets
    assert not claimed(ledger, secrets={"s3": ALL["s3"]}).has_secrets

    ledger.claims.generated(claim, [], outputs_reused=False)

    assert left(ledger, claim.job_id) == {BUCKET, WEBHOOK}


@pytest.mark.parametrize("status", [SUCCEEDED, FAILED, CANCELED])
def test_the_end_leaves_what_signs_webhooks(status: str, ledger: Ledger) -> None:
    job_id = end(ledger, status, secrets=ALL, webhook=HOOK)

    assert set(rows(ledger, job_id)) == {WEBHOOK}


def test_what_signs_webhooks_goes_when_none_is_open(ledger: Ledger) -> None:
    running = submit(ledger, secrets=ALL, webhook=HOOK).id
    ended = end(ledger, FAILED, secrets=ALL, webhook=HOOK)
    without_webhooks = end(ledger, FAILED, secrets=ALL)

    assert ledger.secrets.wipe() == 1
    assert (left(ledger, running), left(ledger, ended)) == (set(PARTS), {WEBHOOK})
    assert left(ledger, without_webhooks) == set()

    (due,) = ledger.outbox.due(job_ids=[ended])
    (post,) = ledger.outbox.take([due.id])
    assert ledger.secrets.wipe() == 0
    assert ledger.secrets.open(ended, WEBHOOK) == {"webhook_secret": ["whsec-plain"]}

    refused = TryResult(at_ms=now_ms(), duration_ms=1, status_code=500, error="answered 500")
    ledger.outbox.record([(post, refused)])
    assert ledger.secrets.wipe() == 0

    ledger.deliveries.replay(post.id)
    deliver(ledger, ended)
    assert ledger.secrets.wipe() == 1
    assert ledger.secrets.wipe() == 0
    # One that is replayed later must fail, not go out without its signature.
    with pytest.raises(SecretUnreadable, match="deleted after its use"):
        ledger.secrets.open(ended, WEBHOOK)
    assert ledger.secrets.open(running, WEBHOOK) == {"webhook_secret": ["whsec-plain"]}
    ledger.secrets.renew(ended, {"webhook_secret": "again"})
    assert ledger.secrets.open(ended, WEBHOOK) == {"webhook_secret": "again"}


def test_keys_change_while_jobs_wait(ledger_settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))

    def with_keys(keys: str) -> Ledger:
        return Ledger(ledger_settings.model_copy(update={"secret_key": type(ledger_settings.secret_key)(keys)}))

    before, both, after = with_keys(old), with_keys(f"{new},{old}"), with_keys(new)
    first, second = submit(before, secrets=ALL), submit(both, secrets=ALL)

    assert both.secrets.open(first.id, BUCKET) == {"s3": ALL["s3"]}
    assert after.secrets.open(second.id, BUCKET) == {"s3": ALL["s3"]}
    with caplog.at_level(logging.ERROR), pytest.raises(SecretUnreadable) as told:
        after.secrets.open(first.id, BUCKET)
    # The setting is the operator's affair.
    assert "COMFYLINE_SECRET_KEY" in caplog.text
    assert "FLEET" not in told.value.message
    assert "submit it again" in told.value.message
    for each in (before, both, after):
        each.close()


def test_rows_of_the_version_before_still_open_and_end_with_the_job(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    (key,) = load_keys("", settings.data_dir)
    migrate(settings)
    ledger = Ledger(settings)
    claim = claimed(ledger)
    database = Database(settings.ledger_url)
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0005")
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(key).encrypt(nonce, json.dumps(ALL).encode(), claim.job_id.encode())
        older = text("INSERT INTO secrets (job_id, sealed) VALUES (:job_id, :sealed)")
        connection.execute(older, {"job_id": claim.job_id, "sealed": sealed})
        connection.commit()
    migrate(settings)

    for purpose, name in PARTS.items():
        assert ledger.secrets.open(claim.job_id, purpose) == {name: ALL[name]}
    ledger.claims.fail(claim, ERROR)
    assert rows(ledger, claim.job_id) == {}
    ledger.close()
    database.dispose()


def test_sqlite_keeps_nothing_of_what_was_wiped(sqlite_settings: Settings) -> None:
    ledger = Ledger(sqlite_settings)
    files = [sqlite_settings.data_dir / name for name in ("ledger.db", "ledger.db-wal")]
    kept = [submit(ledger, secrets=ALL, webhook=HOOK).id for _ in range(20)]
    sealed = [part for job_id in kept for part in rows(ledger, job_id).values() if part]
    # Pages of the database, and frames of its log, hold them now.
    ledger.database.empty_log(timeout_ms=1000)
    for job_id in kept:
        ledger.jobs.cancel(job_id)
        deliver(ledger, job_id)
    assert any(part in file.read_bytes() for part in sealed for file in files)

    assert ledger.secrets.wipe() == len(kept)

    assert not any(part in file.read_bytes() for part in sealed for file in files)
    ledger.close()


def test_writers_and_readers_do_not_wait_for_the_log(sqlite_settings: Settings) -> None:
    ledger = Ledger(sqlite_settings)
    submit(ledger)
    with ledger.database.engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.execute(select(jobs.c.id)).all()
        submit(ledger)
        assert not ledger.database.empty_log(timeout_ms=50)
        reader.exec_driver_sql("ROLLBACK")
    assert ledger.database.empty_log(timeout_ms=50)
    assert (sqlite_settings.data_dir / "ledger.db-wal").stat().st_size == 0
    ledger.close()


def test_a_node_that_repeats_its_key_does_not_tell_it(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = equip(make_app(sqlite_settings, "api"), sqlite_settings)
    claim = claimed(runtime.ledger, secrets=ALL)
    recorder = Recorder(runtime)
    assert recorder.extra_data(claim) == {"api_key_comfy_org": "partner-plain"}

    def fail() -> None:
        raise PromptFailed("401 for partner-plain", "7", "PartnerNode", "Error", "line 1\npartner-plain\n")

    with caplog.at_level(logging.INFO):
        outcome = recorder.guard(claim, fail)

    assert isinstance(outcome, Failed)
    error = runtime.ledger.jobs.get(claim.job_id).error
    assert error is not None
    assert (error.message, error.node_id) == ("401 for [secret]", "7")
    assert "plain" not in f"{outcome!r} {outcome.error!r} {error} {caplog.text}"
    runtime.close()
