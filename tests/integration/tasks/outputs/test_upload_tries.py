"""A job's delivery comes to an end, whatever is raised and whoever wrote down what it reads."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from comfy.client.outputs import ReportedOutput
from core.clock import now_ms
from core.contracts.comfy_v2 import output_view
from core.contracts.generate import webhook_body
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import assets
from core.ledger.outputs import DELIVERING_MS
from core.links import Links
from core.records.bucket_target import BucketTarget
from core.records.job import DELIVERING, FAILED, SUCCEEDED, Job
from core.records.job_error import JobError
from core.records.output import BucketResult, FileSource
from core.settings import Settings
from tasks import upload as upload_module
from tasks.messaging.app import make_app
from tasks.outputs.finishing import ORIGINALS, RECORD
from tasks.reconcile import resume_uploads
from tasks.runner.output_files import output_files
from tasks.runtime import equip
from tasks.upload import upload
from tests.integration.tasks.outputs.test_upload import CONVERSION, generated, picture, stored, turn
from tests.ledger_moves import WEBHOOK, claimed, produced, register, set_columns
from tests.s3_server import CREDENTIALS, S3Server

#: How ComfyUI writes text that core nodes have cut in the middle of an emoji.
HALF = "a lighthouse \ud83d at dusk \udca1"


def make_late(settings: Settings, claim: Claim, *, by_s: float = DELIVERING_MS / 1000 + 1) -> None:
    """As if the job had been generated so long ago."""
    ledger = Ledger(settings)
    set_columns(ledger, claim.job_id, generated_at_ms=now_ms() - round(by_s * 1000))
    ledger.close()


def spoil(settings: Settings, claim: Claim, source: dict[str, Any]) -> None:
    """Have the ledger say that a job's file lies where nobody understands."""
    ledger = Ledger(settings)
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(assets).where(assets.c.job_id == claim.job_id).values(source=source))
    ledger.close()


def test_a_fault_of_ours_is_tried_as_often_as_attempts_are_and_then_told(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    claim = generated(sqlite_settings, {}, a_png=b"1")
    spoil(sqlite_settings, claim, {"tape": 5})
    jobs: list[Job] = []

    with caplog.at_level(logging.ERROR):
        for _ in range(sqlite_settings.max_attempts):
            jobs.append(turn(sqlite_settings, claim)[1])
            make_late(sqlite_settings, claim)

    assert [job.status for job in jobs] == [DELIVERING, DELIVERING, FAILED]
    assert jobs[-1].error is not None
    assert jobs[-1].error.code == "delivery_failed"
    assert "unexpected error on the server" in jobs[-1].error.message
    assert "KeyError" not in jobs[-1].error.message
    assert sum(record.exc_info is not None for record in caplog.records) == sqlite_settings.max_attempts


def test_turns_that_end_their_process_are_counted(sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = generated(sqlite_settings, {}, a_png=b"1")
    make_late(sqlite_settings, claim)

    def die(*_arguments: Any) -> None:
        raise SystemExit("as the kernel ends what takes all memory")

    with monkeypatch.context() as patched:
        patched.setattr(upload_module, "store", die)
        for _ in range(sqlite_settings.max_attempts):
            with pytest.raises(SystemExit):
                turn(sqlite_settings, claim)
    _, job = turn(sqlite_settings, claim)

    assert job.status == FAILED
    assert job.error is not None
    assert (job.error.code, "3 turns" in job.error.message) == ("delivery_failed", True)


def test_what_may_pass_is_tried_until_the_clock_of_uploads_runs_out(sqlite_settings: Settings) -> None:
    claim = generated(sqlite_settings, {}, a_png=b"1")
    # As a file system that is full: it takes no folder for the job.
    sqlite_settings.outputs_dir.mkdir(parents=True, exist_ok=True)
    (sqlite_settings.outputs_dir / claim.job_id).write_bytes(b"")

    for _ in range(2 * sqlite_settings.max_attempts):
        make_late(sqlite_settings, claim, by_s=sqlite_settings.upload_give_up_s - 60)
        assert turn(sqlite_settings, claim)[1].status == DELIVERING
    make_late(sqlite_settings, claim, by_s=sqlite_settings.upload_give_up_s)
    _, job = turn(sqlite_settings, claim)

    assert job.status == FAILED
    assert job.error is not None
    assert job.error.code == "delivery_failed"
    assert str(sqlite_settings.data_dir) not in job.error.message


def test_the_ledger_being_away_is_nobodys_loss(sqlite_settings: Settings) -> None:
    claim = generated(sqlite_settings, {}, a_png=b"1")
    ledger_file = sqlite_settings.data_dir / "ledger.db"
    away = ledger_file.rename(ledger_file.with_suffix(".away"))
    ledger_file.mkdir()
    runtime = equip(make_app(sqlite_settings, "api"), sqlite_settings)

    ended = runtime.app.tasks[upload.name].apply(args=([claim.job_id, claim.attempt],))

    runtime.close()
    assert ended.state == "SUCCESS"
    ledger_file.rmdir()
    away.rename(ledger_file)
    assert turn(sqlite_settings, claim)[1].status == SUCCEEDED


def test_files_that_nobody_comes_for_end_with_the_time_that_jobs_are_kept(sqlite_settings: Settings) -> None:
    late, fresh = (generated(sqlite_settings, {}, a_png=b"1") for _ in range(2))
    make_late(sqlite_settings, late, by_s=sqlite_settings.retention_s + 60)
    make_late(sqlite_settings, fresh, by_s=sqlite_settings.retention_s - 60)
    runtime = equip(make_app(sqlite_settings, "io"), sqlite_settings)

    resume_uploads(runtime)

    jobs = [runtime.ledger.jobs.get(claim.job_id) for claim in (late, fresh)]
    runtime.close()
    assert [job.status for job in jobs] == [FAILED, DELIVERING]
    assert jobs[0].error == JobError(
        code="delivery_failed",
        message="Its outputs could not be stored: nobody came for them where they lie (here).",
    )


def test_a_target_of_another_version_is_read_as_far_as_it_is_known(sqlite_settings: Settings) -> None:
    server = S3Server()
    target = server.new_target()
    newer = {"s3": {**target.to_json(), "storage_class": "ICE"}, "watermark": {"text": "x"}}
    older = {"s3": {"endpoint_url": target.endpoint_url, "bucket_name": target.bucket_name, "origin": target.origin}}
    secrets = {"s3": {**CREDENTIALS.to_json(), "role": "x"}}
    claims = [generated(sqlite_settings, {}, secrets=secrets, a_png=b"1") for _ in (newer, older)]
    ledger = Ledger(sqlite_settings)
    for claim, delivery in zip(claims, (newer, older), strict=True):
        set_columns(ledger, claim.job_id, delivery=delivery)
    ledger.close()

    jobs = [turn(sqlite_settings, claim)[1] for claim in claims]
    server.stop()

    assert [job.status for job in jobs] == [SUCCEEDED, SUCCEEDED]
    assert [(job.outputs[0].bucket_result or BucketResult()).url is not None for job in jobs] == [True, True]


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b'[{"asset_id": "a", "storage',
        b"5",
        b"[5]",
        b"[]",
        b"[" * 100_000,
        b'[{"asset_id": "another", "storage_key": "x", "size_bytes": 1, "hash": "x"}]',
        b"\xff",
    ],
)
def test_a_record_of_finished_files_that_cannot_be_relied_on_is_made_again(
    sqlite_settings: Settings, record: bytes
) -> None:
    claim = generated(sqlite_settings, CONVERSION, a_png=picture())
    folder = sqlite_settings.outputs_dir / claim.job_id / ORIGINALS
    folder.mkdir(parents=True)
    (folder / RECORD).write_bytes(record)

    _, job = turn(sqlite_settings, claim)

    assert job.status == SUCCEEDED
    assert [name for name, data in stored(sqlite_settings, job).items() if data[8:12] == b"WEBP"] == ["a.webp"]


def test_a_record_of_a_newer_version_is_used(sqlite_settings: Settings) -> None:
    claim = generated(sqlite_settings, CONVERSION, a_png=picture())
    runtime = equip(make_app(sqlite_settings, "io"), sqlite_settings)
    [file] = runtime.ledger.outputs.pending(claim.job_id, claim.attempt).files
    runtime.close()
    folder = sqlite_settings.outputs_dir / claim.job_id
    (folder / ORIGINALS).mkdir(parents=True)
    (folder / "a.webp").write_bytes(b"made by it")
    said = {"asset_id": file.id, "storage_key": f"{claim.job_id}/a.webp", "size_bytes": 10, "hash": "x"}
    (folder / ORIGINALS / RECORD).write_text(json.dumps([{**said, "name": "a.webp", "thumbnail": 7}]))

    _, job = turn(sqlite_settings, claim)

    assert stored(sqlite_settings, job) == {"a.webp": b"made by it"}


def test_half_a_surrogate_in_a_text_is_no_hindrance(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings)
    register(ledger, "gpu0@here")
    claim = claimed(ledger, contract="generate", webhook=WEBHOOK, metadata={"note": HALF})
    instance = ledger.instances.get("gpu0@here")
    assert instance is not None
    text = ReportedOutput(node_id="9", kind="text", content_type="text/plain; charset=utf-8", key="text", text=HALF)
    ledger.claims.generated(claim, output_files(claim.job_id, [text], instance), outputs_reused=False)
    # What a worker of an earlier version writes down.
    old = claimed(ledger)
    ledger.claims.generated(old, [replace(produced(old), source=FileSource(text=HALF))], outputs_reused=False)

    jobs = [turn(ledger_settings, each)[1] for each in (claim, old)]

    assert [job.status for job in jobs] == [SUCCEEDED, SUCCEEDED]
    for job in jobs:
        [content] = stored(ledger_settings, job).values()
        assert content.decode() == "a lighthouse � at dusk �"
    json.dumps([output_view(jobs[0].outputs[0], Links(base_url="http://me"), 0), webhook_body(jobs[0])]).encode()
    ledger.close()


@pytest.mark.parametrize("fault", ["no bucket", "no room"])
def test_names_that_clients_chose_are_not_logged(
    sqlite_settings: Settings, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    target = BucketTarget(endpoint_url="http://127.0.0.1:1", bucket_name="bucket", region=None, prefix="")
    claim = generated(sqlite_settings, {"s3": target.to_json()} if fault == "no bucket" else {}, lighthouse_png=b"1")
    if fault == "no room":
        (sqlite_settings.outputs_dir / claim.job_id / "lighthouse.png").mkdir(parents=True)

    with caplog.at_level(logging.INFO):
        _, job = turn(sqlite_settings, claim)

    assert job.status == DELIVERING
    assert claim.job_id in caplog.text
    assert "lighthouse" not in caplog.text
