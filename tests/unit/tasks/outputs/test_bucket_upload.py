"""Files on their way into a bucket: what is sent where, what becomes of refusals, and what is said of it in the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.buckets.bucket import LINK_S, PART_BYTES, SLOWEST_BYTES_PER_S, limit_s
from core.errors import AddressRefused, ComfylineError, LedgerUnavailable, UploadFailed, UploadRefused
from core.outbound import Policy
from core.records.bucket_target import ENVIRONMENT, PUT_URLS, BucketTarget, Credentials
from core.records.job import Job
from core.records.output import BucketResult, FileSource, OutputFile
from core.records.output_options import OutputOptions
from tasks.outputs import bucket_upload as buckets
from tasks.outputs.bucket_upload import CLEANING_S, FIRST_ANSWER_S, SECOND_TRY_S, upload_files
from tasks.outputs.endpoints import Endpoints
from tests.ledger_moves import submit
from tests.makers import BrokerlessRuntime, StoppedClock, Stopwatch

CREDENTIALS = Credentials(access_key_id="own-key", secret_access_key="own-secret")
NOW_MS = 1_700_000_000_000
LATER_MS = NOW_MS + 1
URL = "https://bucket.example/one?signature=secret"


def target_of(**fields: Any) -> BucketTarget:
    values: dict[str, Any] = {"endpoint_url": "https://s3.example", "bucket_name": "b", "region": None, "prefix": "p"}
    return BucketTarget(**{**values, **fields})


class Wire:
    """Takes the place of every bucket: what was opened, sent and removed, and what becomes of it."""

    def __init__(self) -> None:
        #: How each bucket was opened: `(target, credentials, policy)` and the rest by name.
        self.opened: list[tuple[Any, ...]] = []
        self.options: list[dict[str, Any]] = []
        self.closed = 0
        #: `(key or URL, ...)`.
        self.sent: list[tuple[Any, ...]] = []
        self.cleaned: list[str] = []
        #: By key or URL: what the next tries raise.
        self.errors: dict[str, list[Exception]] = {}
        #: Seconds that the next sending takes.
        self.takes_s = 0.0
        self.watch = Stopwatch()

    def fail(self, where: str, *errors: Exception) -> None:
        self.errors[where] = list(errors)

    def take(self, where: str, *more: Any) -> None:
        self.sent.append((where, *more))
        self.watch.now_s += self.takes_s
        if self.errors.get(where):
            raise self.errors[where].pop(0)

    def put(self, url: str, path: Path, **options: Any) -> None:
        self.options.append(options)
        self.take(url, path.name)

    def bucket(self, *arguments: Any, **options: Any) -> FakeBucket:
        self.opened.append(arguments)
        self.options.append(options)
        return FakeBucket(self, options["on_answer"])


class FakeBucket:
    def __init__(self, wire: Wire, on_answer: Callable[[], None] | None) -> None:
        self._wire, self._on_answer = wire, on_answer

    def __enter__(self) -> FakeBucket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._wire.closed += 1

    def upload(self, key: str, path: Path, *, content_type: str, digest: str) -> None:
        self._wire.take(key, path, content_type, digest)
        if self._on_answer is not None:
            self._on_answer()

    def link(self, key: str) -> str:
        return f"https://link/{key}"

    def clean(self, key: str) -> None:
        self._wire.cleaned.append(key)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire = Wire()
    monkeypatch.setattr(buckets, "Bucket", wire.bucket)
    monkeypatch.setattr(buckets, "put", wire.put)
    monkeypatch.setattr(buckets, "time", wire.watch)
    monkeypatch.setattr(buckets, "now_ms", lambda: NOW_MS)
    monkeypatch.setattr(buckets, "_endpoints", Endpoints())
    return wire


def job_for(
    runtime: BrokerlessRuntime, target: BucketTarget, sealed: dict[str, Any] | None = None, **fields: Any
) -> Job:
    """A job that names a bucket; `sealed` are its secrets, by default credentials."""
    secrets = {"s3": CREDENTIALS.to_json()} if sealed is None else sealed
    return submit(runtime.ledger, output_options=OutputOptions(bucket=target), secrets=secrets, **fields)


def files_of(job: Job, *names: str, size_bytes: int = 10) -> list[OutputFile]:
    """Files in storage."""
    return [
        OutputFile(
            id=f"asset{number}",
            job_id=job.id,
            node_id="9",
            name=name,
            kind="image",
            content_type="image/png",
            source=FileSource(text=""),
            storage_key=f"{job.id}/{name}",
            size_bytes=size_bytes,
            hash=f"blake3:{number:064}",
            ordinal=number,
        )
        for number, name in enumerate(names, start=1)
    ]


def results(files: list[OutputFile]) -> list[BucketResult | None]:
    return [file.bucket_result for file in files]


class TestBucket:
    def test_each_file_is_sent_and_has_a_link(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        target = target_of()
        job = job_for(runtime, target)
        files = files_of(job, "a.png", "b.png")
        uploaded = upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        root = runtime.settings.outputs_dir
        keys = [entry[0] for entry in wire.sent]
        assert wire.sent == [
            (key, root / job.id / file.name, "image/png", file.hash) for key, file in zip(keys, files, strict=True)
        ]
        assert all(key.startswith("p/") and job.id in key for key in keys)
        assert len(set(keys)) == 2
        assert results(uploaded) == [
            BucketResult(url=f"https://link/{key}", key=key, expires_at_ms=NOW_MS + LINK_S * 1000) for key in keys
        ]
        [(opened, credentials, policy)] = wire.opened
        assert (opened, credentials) == (target, CREDENTIALS)
        assert policy == Policy.from_settings(runtime.settings)
        assert wire.options[0]["limit_s"] == limit_s(20)
        assert wire.closed == 1
        assert wire.watch.slept_s == []

    def test_below_a_public_address_links_do_not_expire(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of(public_url="https://cdn.example"))
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.bucket_result is not None
        assert file.bucket_result.expires_at_ms is None

    def test_keys_are_made_of_what_the_template_names(
        self, runtime: BrokerlessRuntime, wire: Wire, clock: StoppedClock
    ) -> None:
        target = target_of(key_template="{date}/{prefix}/{job_id}/{request_id}/{node_id}-{ordinal}-{filename}")
        asked, unasked = job_for(runtime, target, request_id="r1"), job_for(runtime, target)
        for job in (asked, unasked):
            upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert [entry[0] for entry in wire.sent] == [
            f"2027-01-15/p/{asked.id}/r1/9-1-a.png",
            f"2027-01-15/p/{unasked.id}/{unasked.id}/9-1-a.png",
        ]

    def test_an_endpoint_that_has_taken_files_has_all_the_time(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        for _ in range(2):
            upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert [options["first_answer_s"] for options in wire.options] == [FIRST_ANSWER_S, None]

    def test_amazons_buckets_are_endpoints_of_their_own(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        for name in ("b", "b", "c"):
            job = job_for(runtime, target_of(endpoint_url=None, region="eu-west-1", bucket_name=name))
            upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert [options["first_answer_s"] for options in wire.options] == [FIRST_ANSWER_S, None, FIRST_ANSWER_S]

    def test_credentials_that_are_gone_are_said_and_nothing_is_sent(
        self, runtime: BrokerlessRuntime, wire: Wire
    ) -> None:
        job = job_for(runtime, target_of(), {})
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.upload_error == "the server no longer has the credentials of the bucket"
        assert wire.opened == []

    def test_a_ledger_that_is_away_is_said(
        self, runtime: BrokerlessRuntime, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_arguments: object) -> None:
            raise LedgerUnavailable("away")

        job = job_for(runtime, target_of())
        monkeypatch.setattr(type(runtime.ledger.secrets), "open", away)
        with pytest.raises(LedgerUnavailable):
            upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)


class TestOperatorsBucket:
    def test_it_is_opened_with_the_operators_credentials(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        changes = {"s3_bucket_name": "b", "s3_access_key_id": "operators"}
        runtime.settings = runtime.settings.model_copy(update=changes)
        job = job_for(runtime, target_of(origin=ENVIRONMENT))
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.upload_error is None
        [(_, credentials, policy)] = wire.opened
        assert credentials.access_key_id == "operators"
        assert policy == Policy.of_operator(runtime.settings)

    def test_that_there_is_none_any_more_is_said(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of(origin=ENVIRONMENT))
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.upload_error == "the server no longer has the credentials of the bucket"


def keys_of(runtime: BrokerlessRuntime, wire: Wire, job: Job, files: list[OutputFile]) -> list[str]:
    """The keys that files get."""
    wire.sent.clear()
    upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
    keys = [entry[0] for entry in wire.sent]
    wire.sent.clear()
    wire.options.clear()
    wire.closed = 0
    return keys


class TestFailures:
    def test_what_may_pass_is_raised_while_there_is_time(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png", "b.png")
        first, second = keys_of(runtime, wire, job, files)
        wire.fail(first, UploadFailed("slow"))
        with pytest.raises(UploadFailed, match="slow"):
            upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        assert [entry[0] for entry in wire.sent] == [first, second], "the others are tried all the same"
        assert (wire.cleaned, wire.watch.slept_s) == ([], [])

    def test_and_said_when_there_is_none(
        self, runtime: BrokerlessRuntime, wire: Wire, caplog: pytest.LogCaptureFixture
    ) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png", "b.png")
        first, second = keys_of(runtime, wire, job, files)
        wire.fail(first, UploadFailed("slow"))
        uploaded = upload_files(runtime, job, files, give_up_at_ms=NOW_MS)
        assert results(uploaded)[0] == BucketResult(error="slow")
        assert uploaded[1].bucket_result is not None
        assert uploaded[1].bucket_result.key == second
        assert "1 of 2 files are not in the bucket" in caplog.text
        assert "a.png" not in caplog.text, "a name comes from the graph, which is its client's"

    def test_a_refusal_gets_a_second_try(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png", "b.png", "c.png")
        first, second, third = keys_of(runtime, wire, job, files)
        wire.fail(second, UploadRefused("unknown key"))
        wire.fail(third, AddressRefused("private"), AddressRefused("private again"))
        uploaded = upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        assert [entry[0] for entry in wire.sent] == [first, second, third, second, third]
        assert wire.watch.slept_s == [SECOND_TRY_S]
        assert [file.upload_error for file in uploaded] == [None, None, "private again"]

    def test_the_pause_before_it_is_a_second(self) -> None:
        assert SECOND_TRY_S == 1.0

    def test_all_files_failing_closes_the_endpoint_for_a_while(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png")
        [key] = keys_of(runtime, wire, job, files)
        for _ in range(3):
            wire.fail(key, UploadFailed("slow"))
            with pytest.raises(UploadFailed, match="slow"):
                upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        with pytest.raises(UploadFailed, match="left alone for a while"):
            upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        uploaded = upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=NOW_MS)
        assert [str(file.upload_error).endswith("left alone for a while") for file in uploaded] == [True, True]

    @pytest.mark.parametrize("names", [("a.png", "b.png"), ()])
    def test_one_file_that_gets_through_or_none_to_send_do_not(
        self, runtime: BrokerlessRuntime, wire: Wire, names: tuple[str, ...]
    ) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png", "b.png")
        first, _ = keys_of(runtime, wire, job, files)
        for _ in range(4):
            wire.fail(first, UploadFailed("slow"))
            if names:
                with pytest.raises(UploadFailed, match="slow"):
                    upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
            else:
                assert upload_files(runtime, job, [], give_up_at_ms=LATER_MS) == []

    def test_refusals_are_answers(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png")
        [key] = keys_of(runtime, wire, job, files)
        for _ in range(4):
            wire.fail(key, UploadRefused("no"), UploadRefused("no"))
            [file] = upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
            assert file.upload_error == "no"

    def test_parts_of_what_is_given_up_are_removed(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        whole = files_of(job, "a.png", size_bytes=PART_BYTES)[0]
        small = files_of(job, "", "b.png", size_bytes=PART_BYTES - 1)[1]
        good = files_of(job, "", "", "c.png", size_bytes=PART_BYTES)[2]
        files = [whole, small, good]
        keys = keys_of(runtime, wire, job, files)
        for key in keys[:2]:
            wire.fail(key, UploadRefused("no"), UploadRefused("no"))
        upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        assert wire.cleaned == keys[:1]
        assert [options["limit_s"] for options in wire.options] == [
            limit_s(3 * PART_BYTES - 1),
            CLEANING_S,
        ]
        assert wire.options[1]["first_answer_s"] is wire.options[1]["on_answer"] is None
        assert wire.closed == 2
        assert CLEANING_S == 15.0

    def test_parts_are_removed_with_the_credentials_of_the_bucket(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        changes = {"s3_bucket_name": "b", "s3_access_key_id": "operators"}
        runtime.settings = runtime.settings.model_copy(update=changes)
        for origin, key_id in (("request", "own-key"), (ENVIRONMENT, "operators")):
            job = job_for(runtime, target_of(origin=origin))
            files = files_of(job, "a.png", size_bytes=PART_BYTES)
            [key] = keys_of(runtime, wire, job, files)
            wire.opened.clear()
            wire.fail(key, UploadRefused("no"), UploadRefused("no"))
            upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
            assert [opened[1].access_key_id for opened in wire.opened] == [key_id] * 2

    def test_nothing_is_opened_to_remove_nothing(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        job = job_for(runtime, target_of())
        files = files_of(job, "a.png")
        [key] = keys_of(runtime, wire, job, files)
        wire.fail(key, UploadRefused("no"), UploadRefused("no"))
        wire.opened.clear()
        upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        assert len(wire.opened) == 1

    def test_what_is_no_target_at_all_is_said_of_each_file(
        self, runtime: BrokerlessRuntime, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: Any, **_options: Any) -> FakeBucket:
            raise UploadRefused("no such region")

        monkeypatch.setattr(buckets, "Bucket", refuse)
        job = job_for(runtime, target_of())
        uploaded = upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=LATER_MS)
        assert [file.upload_error for file in uploaded] == ["no such region"] * 2


class TestPutUrls:
    @pytest.fixture
    def target(self) -> BucketTarget:
        return target_of(endpoint_url=None, bucket_name="", prefix="", origin=PUT_URLS)

    def test_each_file_goes_to_its_url(self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget) -> None:
        urls = {"b.png": f"{URL}&b", "a.png": URL}
        job = job_for(runtime, target, {"s3": {"put_urls": urls}})
        uploaded = upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=LATER_MS)
        assert wire.sent == [(URL, "a.png"), (f"{URL}&b", "b.png")]
        assert results(uploaded) == [BucketResult(url=None)] * 2
        assert {(options["content_type"], options["target"]) for options in wire.options} == {("image/png", target)}
        assert wire.options[0]["policy"] == Policy.from_settings(runtime.settings)
        assert wire.opened == []

    def test_with_a_public_address_there_is_a_link(self, runtime: BrokerlessRuntime, wire: Wire) -> None:
        target = target_of(origin=PUT_URLS, public_url="https://cdn.example")
        job = job_for(runtime, target, {"s3": {"put_urls": [URL]}})
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.bucket_result == BucketResult(url="https://cdn.example/one")

    def test_a_file_without_a_url_is_said(
        self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        job = job_for(runtime, target, {"s3": {"put_urls": [URL]}})
        uploaded = upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=LATER_MS)
        assert [file.upload_error for file in uploaded] == [None, "s3.put_urls has no URL for b.png"]
        assert "output 2 was not uploaded: there is no URL for it" in caplog.text
        assert "b.png" not in caplog.text

    def test_urls_that_are_gone_are_said(self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget) -> None:
        job = job_for(runtime, target, {})
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.upload_error == "the server no longer has the URLs to put files to"

    def test_where_no_file_has_a_url_nothing_is_sent(
        self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget
    ) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": {"other.png": URL}}})
        [file] = upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)
        assert file.upload_error == "s3.put_urls has no URL for a.png"
        assert wire.sent == []

    def test_parts_are_not_looked_for(self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": [URL]}})
        wire.fail(URL, UploadRefused("no"), UploadRefused("no"))
        [file] = upload_files(runtime, job, files_of(job, "a.png", size_bytes=PART_BYTES), give_up_at_ms=LATER_MS)
        assert file.upload_error == "no"
        assert wire.opened == []

    def test_a_server_that_has_not_answered_yet_gets_little_time(
        self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget
    ) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": [URL, f"{URL}&b"]}})
        files = files_of(job, "a.png", "b.png", size_bytes=SLOWEST_BYTES_PER_S)
        wire.takes_s = 5.0
        upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        upload_files(runtime, job, files, give_up_at_ms=LATER_MS)
        whole_s = limit_s(2 * SLOWEST_BYTES_PER_S)
        assert [options["limit_s"] for options in wire.options] == [
            FIRST_ANSWER_S + 1,
            whole_s - 5,
            whole_s,
            whole_s - 5,
        ]
        assert FIRST_ANSWER_S == 10.0

    def test_one_that_fails_has_not_answered(
        self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget
    ) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": [URL, f"{URL}&b"]}})
        wire.fail(URL, UploadFailed("slow"))
        with pytest.raises(UploadFailed):
            upload_files(runtime, job, files_of(job, "a.png", "b.png", size_bytes=0), give_up_at_ms=LATER_MS)
        assert [options["limit_s"] for options in wire.options] == [FIRST_ANSWER_S] * 2

    def test_an_answer_gives_the_server_its_share_at_once(
        self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": [URL, f"{URL}&b"]}})
        inner: list[BucketResult | ComfylineError | None] = []
        put = wire.put

        def put_and_begin_another(url: str, path: Path, **options: Any) -> None:
            if url != URL:
                monkeypatch.setattr(buckets, "put", put)
                inner.extend(results(upload_files(runtime, job, files_of(job, "a.png"), give_up_at_ms=LATER_MS)))
            put(url, path, **options)

        monkeypatch.setattr(buckets, "put", put_and_begin_another)
        upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=LATER_MS)
        assert inner == [BucketResult()]

    def test_however_late_there_is_a_moment(self, runtime: BrokerlessRuntime, wire: Wire, target: BucketTarget) -> None:
        job = job_for(runtime, target, {"s3": {"put_urls": [URL, f"{URL}&b"]}})
        wire.takes_s = 1_000.0
        upload_files(runtime, job, files_of(job, "a.png", "b.png"), give_up_at_ms=LATER_MS)
        assert wire.options[1]["limit_s"] == 0.001
