"""A bucket that is not the fleet's, or does not let the fleet work: one clear line each, at the start and in /ready."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.local import startup_checks
from cli.local.startup_checks import settle_storage
from core.errors import ConfigurationError, StorageUnavailable
from core.ledger import Ledger
from core.ledger.facts import FLEET, STORAGE
from core.settings import Settings
from core.storage import marked_bucket
from core.storage import marker as storage_marker
from core.storage.marker import StorageMarker
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.s3_server import Gate, S3Server, fronted
from tests.tls import Authority


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


Change = Callable[..., Settings]


@pytest.fixture
def change(ledger_settings: Settings, s3: S3Server, tmp_path: Path) -> Change:
    """The settings of a fleet with a bucket of its own, and what is wrong with them."""

    def changed(**wrong: str) -> Settings:
        own = {**bucket_settings(s3.url), "storage_url": f"s3://{BUCKET}/{tmp_path.name}"}
        return ledger_settings.model_copy(update={**own, **wrong, "storage_secret_access_key": _secret()})

    return changed


def _secret() -> object:
    return Settings(storage_secret_access_key="own-secret").storage_secret_access_key


def refused(settings: Settings) -> str:
    with pytest.raises(ConfigurationError) as caught:
        settle_storage(settings, lambda _line: None)
    message: str = caught.value.message
    assert "\n" not in message
    return message


def test_processes_that_start_at_once_agree_on_one_marker(change: Change, s3: S3Server) -> None:
    settings, problems = change(), []

    def settle() -> None:
        try:
            settle_storage(settings, lambda _line: None)
        except ConfigurationError as exc:
            problems.append(exc)

    threads = [threading.Thread(target=settle) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    ledger = Ledger(settings)
    assert StorageMarker(settings, ledger.storage_moves).problem() is None
    ledger.close()


def test_a_fleet_whose_files_are_elsewhere_does_not_begin_with_an_empty_bucket(change: Change, ledger: Ledger) -> None:
    ledger.facts.settle(STORAGE, "of-a-directory")

    assert "comfyline storage copy" in refused(change())


def test_a_bucket_of_another_fleet(change: Change, ledger: Ledger, s3: S3Server) -> None:
    settings = change()
    key = f"{settings.storage_url.removeprefix(f's3://{BUCKET}/')}/{marked_bucket.NAME}"
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=b"other other\n")

    assert f"remove {key}" in refused(settings)
    ledger.facts.settle(STORAGE, ledger.facts.settle(FLEET, "ours"))
    assert "but another fleet's" in refused(settings)


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Hello</title>"])
def test_what_answers_with_no_marker_is_told_from_another_fleets(
    change: Change, ledger: Ledger, s3: S3Server, content: bytes
) -> None:
    settings = change()
    key = f"{settings.storage_url.removeprefix(f's3://{BUCKET}/')}/{marked_bucket.NAME}"
    s3.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    assert "holds no marker. Does COMFYLINE_STORAGE_ENDPOINT_URL" in refused(settings)
    ledger.facts.settle(STORAGE, ledger.facts.settle(FLEET, "ours"))
    assert "holds no marker. Does COMFYLINE_STORAGE_ENDPOINT_URL" in refused(settings)


def test_a_bucket_that_is_not_there(change: Change) -> None:
    assert "s3://nowhere/x: there is no such bucket: make it, or correct COMFYLINE_STORAGE_URL" in refused(
        change(storage_url="s3://nowhere/x")
    )


def answer(status: int, code: str, more: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()
    return f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(403, "InvalidAccessKeyId"), "does not take the credentials: check COMFYLINE_STORAGE_ACCESS_KEY_ID"),
        (answer(403, "SignatureDoesNotMatch"), "does not take the credentials"),
        (
            answer(400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>"),
            "in another region (eu-north-1): set COMFYLINE_STORAGE_REGION",
        ),
        (answer(301, "PermanentRedirect"), "in another region: set COMFYLINE_STORAGE_REGION"),
        (answer(403, "RequestTimeTooSkewed"), "the clock of this machine is wrong: have it set by NTP"),
        (
            b"HTTP/1.1 308 X\r\nLocation: https://s3.example/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "sends us to https://s3.example/: check COMFYLINE_STORAGE_ENDPOINT_URL",
        ),
    ],
)
def test_wrong_credentials_and_a_wrong_region(change: Change, s3: S3Server, said: bytes, words: str) -> None:
    with fronted(s3, [said] * 2000) as front:
        assert words in refused(change(storage_endpoint_url=front.url))


def test_a_server_without_tls_and_one_with_a_certificate_of_its_own(
    change: Change, s3: S3Server, tmp_path: Path
) -> None:
    plain = marked_bucket.MarkedBucket(change(storage_endpoint_url=s3.url.replace("http://", "https://")))
    assert "the S3 server does not speak TLS with us: check COMFYLINE_STORAGE_ENDPOINT_URL" in str(plain.away())

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority(tmp_path / "tls").issue("localhost"))
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        why = marked_bucket.MarkedBucket(change(storage_endpoint_url=url)).away()
        server.shutdown()
        thread.join(10)
    assert "the certificate of the S3 server is not trusted: AWS_CA_BUNDLE names" in str(why)


def test_a_bucket_without_write_rights(change: Change, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = change()
    settle_storage(settings, lambda _line: None)
    # Marker and look are read; what is written is refused.
    denied = answer(403, "AccessDenied")
    with fronted(s3, [None, *[denied] * 20]) as front:
        monkeypatch.setattr(StorageMarker, "away", lambda _self: None)
        message = refused(change(storage_endpoint_url=front.url))

    assert "the credentials do not permit this (PutObject: 403 AccessDenied)" in message


def test_no_credentials_anywhere(change: Change, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    settings = change(storage_access_key_id="").model_copy(
        update={"storage_secret_access_key": Settings().storage_secret_access_key}
    )
    with pytest.raises(ConfigurationError, match="there are no credentials for it: set"):
        settle_storage(settings, lambda _line: None)


def test_a_server_that_is_not_there_yet_is_waited_for(
    change: Change, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_checks, "PAUSE_S", 0.05)
    gate, said = Gate(s3.port), []
    gate.shut()

    def report(line: str) -> None:
        said.append(line)
        gate.open()

    settle_storage(change(storage_endpoint_url=gate.url), report)
    gate.close()

    assert len(said) == 1
    assert said[0].startswith(f"Waiting for the storage. s3://{BUCKET}/")


def test_a_bucket_that_goes_away_is_noticed_and_seen_again(
    change: Change, s3: S3Server, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_marker, "HOLDS_S", 0.0)
    monkeypatch.setattr(storage_marker, "HOLDS_IN_BUCKET_S", 0.0)
    gate = Gate(s3.port)
    marker = StorageMarker(change(storage_endpoint_url=gate.url), ledger.storage_moves)
    assert marker.problem() is None
    assert not marker.is_full()
    gate.shut()

    assert "The storage cannot be used. s3://" in (marker.problem() or "")
    with pytest.raises(StorageUnavailable, match="/ready tells"):
        marker.require()
    gate.open()

    assert marker.problem() is None
    gate.close()
