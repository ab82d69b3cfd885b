"""Turns of the task that delivers: finishing files and putting them into a bucket, killed between any two steps."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.buckets.put_urls import PutUrls
from core.contracts.comfy_v2 import output_view
from core.contracts.generate import ResultView, generate_result
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.upgrade import migrate
from core.links import Links
from core.records.bucket_target import ENVIRONMENT, PUT_URLS, BucketTarget
from core.records.job import DELIVERING, FAILED, SUCCEEDED, Job
from core.records.output import BucketResult, FileSource
from core.records.output_options import OutputOptions
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.outputs import bucket_upload as buckets
from tasks.outputs import endpoints
from tasks.outputs.finishing import ORIGINALS
from tasks.runtime import equip
from tasks.upload import upload
from tasks.worker import IO_THREADS
from tests.fleet import ROOT
from tests.ledger_moves import check_log, claimed, produced
from tests.s3_server import BUSY, CREDENTIALS, REFUSED, S3Server, fronted
from tests.services import make_settings

SECRET = "a lighthouse nobody may know of"
CONVERSION = {"convert": {"format": "webp", "quality": 80}, "strip_metadata": True}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """An S3 server for the tests of this file."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second try comes at once."""
    monkeypatch.setattr(buckets, "SECOND_TRY_S", 0.0)


def picture() -> bytes:
    """A PNG as ComfyUI saves it."""
    data, info = io.BytesIO(), PngInfo()
    info.add_text("prompt", json.dumps({"1": {"inputs": {"text": SECRET}}}))
    Image.linear_gradient("L").convert("RGB").save(data, "PNG", pnginfo=info)
    return data.getvalue()


def generated(
    settings: Settings, delivery: dict[str, Any], *, secrets: dict[str, Any] | None = None, **contents: bytes
) -> Claim:
    """A job whose files lie where an instance left them. `a_png=b"..."` is `a.png`; `delivery` as its row keeps it."""
    ledger = Ledger(settings)
    sealed = secrets or {"s3": CREDENTIALS.to_json()}
    claim = claimed(ledger, contract="generate", output_options=OutputOptions.from_json(delivery), secrets=sealed)
    folder = settings.gpu_dir("gpu0") / "output" / claim.job_id
    folder.mkdir(parents=True)
    files = []
    for number, (word, content) in enumerate(contents.items()):
        name = word.replace("_", ".")
        (folder / name).write_bytes(content)
        source = FileSource(root=str(folder.parent), path=str(folder / name))
        content_type = "image/png" if name.endswith(".png") else "text/plain"
        files.append(replace(produced(claim, number), name=name, content_type=content_type, source=source))
    ledger.claims.generated(claim, files, outputs_reused=False)
    ledger.close()
    return claim


def turn(settings: Settings, claim: Claim) -> tuple[str, Job]:
    """One turn of the task; returns how it ended in Celery's words, and the job."""
    runtime = equip(make_app(settings, "api"), settings)
    try:
        ended = runtime.app.tasks[upload.name].apply(args=([claim.job_id, claim.attempt],))
        check_log(runtime.ledger, claim.job_id)
        return str(ended.state), runtime.ledger.jobs.get(claim.job_id)
    finally:
        runtime.close()


def result_of(job: Job) -> ResultView:
    return generate_result(job, links=Links(base_url="http://me"))


def stored(settings: Settings, job: Job) -> dict[str, bytes]:
    """Files of a job in storage, by the names the ledger has for them."""
    return {output.name: (settings.outputs_dir / str(output.storage_key)).read_bytes() for output in job.outputs}


@pytest.mark.parametrize("delivery", [{"strip_metadata": True}, {}, {"convert": {"format": "webp"}}])
def test_a_file_that_is_gone_is_told_of_whatever_the_delivery(
    sqlite_settings: Settings, delivery: dict[str, Any]
) -> None:
    claim = generated(sqlite_settings, delivery, a_png=picture(), b_png=picture())
    (sqlite_settings.gpu_dir("gpu0") / "output" / claim.job_id / "b.png").unlink()

    _, job = turn(sqlite_settings, claim)

    assert job.status == SUCCEEDED
    assert [output.name.partition(".")[0] for output in job.outputs] == ["a"]
    assert [(output.name, output.storage_key) for output in job.missing_outputs] == [("b.png", None)]
    assert "1 reported files are not there" in result_of(job)["message"]


@pytest.mark.parametrize("delivery", [{"strip_metadata": True}, {}])
def test_a_job_of_which_nothing_is_left_fails(sqlite_settings: Settings, delivery: dict[str, Any]) -> None:
    claim = generated(sqlite_settings, delivery, a_png=picture())
    (sqlite_settings.gpu_dir("gpu0") / "output" / claim.job_id / "a.png").unlink()

    _, job = turn(sqlite_settings, claim)

    assert job.error is not None
    assert (job.status, job.error.code) == (FAILED, "output_unavailable")
    assert "a.png" in job.error.message


def test_files_go_into_the_bucket(server: S3Server, sqlite_settings: Settings) -> None:
    target = server.new_target()
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=picture(), b_txt=b"")

    state, job = turn(sqlite_settings, claim)

    assert (state, job.status) == ("SUCCESS", SUCCEEDED)
    assert server.content(target) == {f"p/{job.id}/a.png": picture(), f"p/{job.id}/b.txt": b""}
    assert stored(sqlite_settings, job) == {"a.png": picture(), "b.txt": b""}
    result = result_of(job)
    assert result["message"] == "Request completed successfully"
    assert [requests.get(output["url"], timeout=10).content for output in result["output"]] == [picture(), b""]
    assert [output["upload_error"] for output in result["output"]] == [None, None]
    said = job.outputs[0].bucket_result
    assert said is not None
    assert said.expires_at_ms is not None
    assert 6 < (said.expires_at_ms / 1000 - time.time()) / 86400 < 7.01
    view = output_view(job.outputs[0], Links(base_url="http://me"), job.expires_at_ms)
    assert view["upload"] == {"url": said.url, "error": None}
    assert view["url"].startswith("http://me/")
    assert turn(sqlite_settings, claim)[0] == "SUCCESS"


def test_the_environments_credentials_are_not_kept_with_the_job(server: S3Server, sqlite_settings: Settings) -> None:
    target = replace(server.new_target(), origin=ENVIRONMENT)
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")
    settings = sqlite_settings.model_copy(
        update={"s3_access_key_id": "operators-key", "s3_bucket_name": target.bucket_name, "api_host": "0.0.0.0"}
    )

    # The operator's own endpoint may be anywhere; the one of a request may not.
    _, job = turn(settings, claim)

    assert server.content(target) == {f"p/{job.id}/a.png": b"1"}
    said = job.outputs[0].bucket_result
    assert said is not None
    assert "operators-key" in str(said.url)


def test_a_private_endpoint_of_a_request_is_refused(server: S3Server, sqlite_settings: Settings) -> None:
    target = server.new_target()
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")

    _, job = turn(sqlite_settings.model_copy(update={"api_host": "0.0.0.0"}), claim)

    assert job.status == SUCCEEDED
    assert job.outputs[0].bucket_result == BucketResult(error="refused: private address")
    assert server.content(target) == {}


def test_a_refusal_is_tried_twice_and_said_on_the_job(server: S3Server, sqlite_settings: Settings) -> None:
    with fronted(server, itertools.repeat(REFUSED)) as front:
        target = server.new_target(front.url)
        claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")

        _, job = turn(sqlite_settings, claim)

    assert sum(head.startswith(b"PUT") for head in front.heads) == 2
    result = result_of(job)
    assert result["status"] == "completed"
    assert result["message"] == (
        "Request completed, but 1 of 1 files could not be uploaded: the S3 server answered 403 InvalidAccessKeyId"
    )
    assert result["output"][0]["upload_error"] == "the S3 server answered 403 InvalidAccessKeyId"
    assert result["output"][0]["url"].startswith("http://me/api/v2/assets/")


def test_a_target_that_botocore_refuses_ends_the_job_too(sqlite_settings: Settings) -> None:
    target = BucketTarget(endpoint_url="http://a_b", bucket_name="bucket", region=None, prefix="")
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")

    _, job = turn(sqlite_settings, claim)

    assert (job.status, job.outputs[0].upload_error) == (SUCCEEDED, "the S3 target cannot be used (ValueError)")


def test_what_may_pass_gets_another_turn_and_what_was_sent_is_not_sent_again(
    server: S3Server, sqlite_settings: Settings
) -> None:
    # Of the first turn, HEAD and PUT of the first file pass; PUT of the second does not.
    with fronted(server, [None, None, BUSY]) as front:
        target = server.new_target(front.url, connect_attempts=1)
        claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1", b_png=b"2")

        state, job = turn(sqlite_settings, claim)
        assert (state, job.status) == ("SUCCESS", DELIVERING)
        assert list(server.content(target)) == [f"p/{job.id}/a.png"]
        state, job = turn(sqlite_settings, claim)

    assert (state, job.status, job.attempt) == ("SUCCESS", SUCCEEDED, 1)
    assert server.content(target) == {f"p/{job.id}/a.png": b"1", f"p/{job.id}/b.png": b"2"}
    sent = [head.split()[1].rpartition(b"/")[2] for head in front.heads if head.startswith(b"PUT")]
    assert sent == [b"a.png", b"b.png", b"b.png"]


def test_in_the_end_it_gives_up(server: S3Server, sqlite_settings: Settings) -> None:
    with fronted(server, itertools.repeat(BUSY)) as front:
        target = server.new_target(front.url, connect_attempts=1)
        claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")

        _, job = turn(sqlite_settings.model_copy(update={"upload_give_up_s": 0.0}), claim)

    assert job.status == SUCCEEDED
    assert stored(sqlite_settings, job) == {"a.png": b"1"}
    assert "could not be uploaded: the S3 server answered 503" in result_of(job)["message"]


def test_keys_by_a_template_and_links_by_a_public_address(server: S3Server, sqlite_settings: Settings) -> None:
    target = server.new_target(
        key_template="{prefix}/{date}/{node_id}/{ordinal}-{filename}", public_url="https://cdn.example"
    )
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1", b_png=b"2")

    _, job = turn(sqlite_settings, claim)

    day = f"{datetime.fromtimestamp(job.created_at_ms / 1000, tz=timezone.utc):%Y-%m-%d}"
    keys = [f"p/{day}/9/1-a.png", f"p/{day}/9/2-b.png"]
    assert server.content(target) == {keys[0]: b"1", keys[1]: b"2"}
    assert [output.bucket_result for output in job.outputs] == [
        BucketResult(url=f"https://cdn.example/{key}", key=key) for key in keys
    ]


def test_files_go_to_the_urls_that_their_client_has_signed(server: S3Server, sqlite_settings: Settings) -> None:
    bucket = server.new_target()
    urls = PutUrls(urls={"b.png": server.signed_put(bucket, "own/b.png"), "*": server.signed_put(bucket, "first.png")})
    target = BucketTarget(endpoint_url=None, bucket_name="", region=None, prefix="", origin=PUT_URLS)
    delivery = {"s3": target.to_json()}
    claim = generated(sqlite_settings, delivery, secrets={"s3": urls.to_json()}, a_png=b"1", b_png=b"2", c_png=b"3")

    _, job = turn(sqlite_settings, claim)

    assert server.content(bucket) == {"own/b.png": b"2", "first.png": b"1"}
    assert [output.bucket_result for output in job.outputs] == [
        BucketResult(),
        BucketResult(),
        BucketResult(error="s3.put_urls has no URL for c.png"),
    ]
    result = result_of(job)
    assert [entry["upload_error"] for entry in result["output"]] == [None, None, "s3.put_urls has no URL for c.png"]
    assert all(entry["url"].startswith("http://me/api/v2/assets/") for entry in result["output"]), "nobody told another"
    assert output_view(job.outputs[0], Links(base_url="http://me"), 0)["upload"] == {"url": None, "error": None}


def test_no_more_uploads_at_once_than_leave_threads_for_others(
    server: S3Server, sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert endpoints.ROOM == IO_THREADS // 2
    monkeypatch.setattr(endpoints, "WAIT_S", 0.05)
    claim = generated(sqlite_settings, {"s3": server.new_target().to_json()}, a_png=b"1")
    settings = sqlite_settings.model_copy(update={"upload_give_up_s": 0.0})
    with contextlib.ExitStack() as others:
        for number in range(endpoints.ROOM):
            # Those that take files leave room for those of which nobody knows.
            with buckets._endpoints.passage(f"http://other{number}") as passage:
                passage.is_well = True
            others.enter_context(buckets._endpoints.passage(f"http://other{number}"))
        assert turn(settings, claim)[1].status == DELIVERING, "it waits for another turn, and is not given up"

    assert turn(settings, claim)[1].status == SUCCEEDED


def test_a_turn_that_finds_another_at_work_leaves_it_alone(server: S3Server, sqlite_settings: Settings) -> None:
    target = server.new_target()
    claim = generated(sqlite_settings, {"s3": target.to_json()}, a_png=b"1")
    folder = sqlite_settings.outputs_dir / claim.job_id
    folder.mkdir(parents=True)
    with (folder / ".delivery.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        state, job = turn(sqlite_settings, claim)
        assert (state, job.status) == ("SUCCESS", DELIVERING)

    assert turn(sqlite_settings, claim)[1].status == SUCCEEDED


def test_files_are_finished_before_anybody_sees_them(server: S3Server, sqlite_settings: Settings) -> None:
    target = server.new_target()
    claim = generated(
        sqlite_settings, {"s3": target.to_json(), **CONVERSION}, a_png=picture(), a_txt=b"words", b_png=b"\x89PNG no"
    )

    _, job = turn(sqlite_settings, claim)

    files = stored(sqlite_settings, job)
    assert list(files) == ["a.webp", "a.txt", "b.png"]
    with Image.open(io.BytesIO(files["a.webp"])) as shown:
        assert (shown.format, shown.size) == ("WEBP", (256, 256))
    assert SECRET.encode() not in files["a.webp"]
    assert (files["a.txt"], files["b.png"]) == (b"words", b"\x89PNG no")
    assert [output.content_type for output in job.outputs] == ["image/webp", "text/plain", "image/png"]
    assert [output.size_bytes for output in job.outputs] == [len(content) for content in files.values()]
    assert server.content(target) == {f"p/{job.id}/{name}": content for name, content in files.items()}
    errors = [output["error"] for output in result_of(job)["output"]]
    assert errors[:2] == [None, None]
    assert "b.png" in (errors[2] or "")
    assert sorted(path.name for path in (sqlite_settings.outputs_dir / job.id).glob("[!.]*")) == sorted(files)
    assert not (sqlite_settings.outputs_dir / job.id / ORIGINALS).exists()


def test_names_that_become_the_same_stay_apart(sqlite_settings: Settings) -> None:
    claim = generated(sqlite_settings, CONVERSION, a_png=picture(), a_webp=b"no picture")

    _, job = turn(sqlite_settings, claim)

    assert [output.storage_key for output in job.outputs] == [f"{job.id}/a.webp", f"{job.id}/a (2).webp"]
    assert (sqlite_settings.outputs_dir / job.id / "a (2).webp").read_bytes() == b"no picture"


@pytest.mark.slow
def test_a_crash_at_any_step_is_made_good(server: S3Server, tmp_path: Path) -> None:
    target = server.new_target()
    code = f"import sys; from {__name__} import crash_everywhere; crash_everywhere(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(tmp_path), json.dumps(target.to_json())]

    done = subprocess.run(command, cwd=ROOT, timeout=100, check=True, stdout=subprocess.PIPE)

    tried = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(tried) > 10
    assert tried[-1]["crashed"] is False
    content = server.content(target)
    assert len(content) == 2 * len(tried)
    for each in tried:
        assert (each["status"], each["attempt"], each["left"]) == (SUCCEEDED, 1, False)
        assert each["names"] == ["a.webp", "b.txt"]
        assert each["hashes"] == tried[-1]["hashes"]
        for name in each["names"]:
            assert content[f"p/{each['job']}/{name}"] == content[f"p/{tried[-1]['job']}/{name}"]


def crash_everywhere(folder: str, target: str) -> None:
    """Deliver one job after another, each killed at a later step, and then again; prints how each ended."""
    template = make_settings(Path(folder) / "template")
    migrate(template)
    delivery = {"s3": BucketTarget.from_json(json.loads(target)).to_json(), **CONVERSION}
    for step in itertools.count(1):
        settings = make_settings(Path(folder) / str(step))
        shutil.copytree(template.data_dir, settings.data_dir)
        claim = generated(settings, delivery, a_png=picture(), b_txt=b"words")
        child = os.fork()
        if child == 0:
            _crash_at(step)
            turn(settings, claim)
            os._exit(0)
        crashed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        _, job = turn(settings, claim)
        print(
            json.dumps(
                {
                    "job": job.id,
                    "crashed": crashed,
                    "status": job.status,
                    "attempt": job.attempt,
                    "names": [output.name for output in job.outputs],
                    "hashes": [output.hash for output in job.outputs],
                    "left": (settings.outputs_dir / job.id / ORIGINALS).exists(),
                }
            )
        )
        if not crashed:
            return


def _crash_at(step: int) -> None:
    """Have this process end at its so many-th change of a name, or connection, as SIGKILL would end it."""
    events = ("os.rename", "os.remove", "os.link", "shutil.copyfile", "shutil.rmtree", "socket.connect")
    steps = itertools.count(1)

    def crash(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in events and next(steps) == step:
            os._exit(9)

    sys.addaudithook(crash)
