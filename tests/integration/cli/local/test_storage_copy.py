"""A directory's files on their way into a bucket: all of them, once, whole; then the bucket is the fleet's."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from cli.doctor.servers import look_only, server_checks
from core.clock import now_ms
from core.errors import ConfigurationError, StorageUnavailable
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.settings import Settings
from core.storage import marker as storage_marker
from core.storage.backend import input_storage
from core.storage.folders import content_key
from core.storage.marked_bucket import NAME
from core.storage.marker import StorageMarker
from core.storage.multipart import MIB
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.faulty_bucket import Asked, Fault, faulty_bucket
from tests.fleet import ROOT
from tests.ledger_moves import claimed, produced
from tests.s3_server import Gate, S3Server
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


class Moving:
    """A fleet whose files are in its data directory, and the bucket they are to go to."""

    def __init__(self, settings: Settings, s3: S3Server) -> None:
        self.settings = settings
        self.s3 = s3
        self.ledger = Ledger(settings)
        self.url = s3.url
        StorageMarker(settings, self.ledger.storage_moves).settle()

    def output(self, content: bytes) -> str:
        """A job with one file; returns the file's key."""
        claim = claimed(self.ledger)
        file = produced(claim)
        self.ledger.claims.generated(claim, [file], outputs_reused=False)
        key = f"{claim.job_id}/{file.name}"
        path = self.settings.outputs_dir / key
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        digest = f"blake3:{blake3(content).hexdigest()}"
        stored = replace(file, storage_key=key, size_bytes=len(content), hash=digest)
        self.ledger.outputs.succeed(claim.job_id, claim.attempt, [stored])
        return key

    def input(self, content: bytes) -> str:
        digest = blake3(content).hexdigest()
        draft = input_storage(self.settings).draft()
        draft.write_bytes(content)
        input_storage(self.settings).put(content_key(digest), draft)
        fields: dict[str, Any] = {"content_type": "image/png", "size_bytes": len(content), "created_at_ms": now_ms()}
        fields |= {"storage_key": content_key(digest), "expires_at_ms": now_ms() + 10**9}
        self.ledger.input_files.add(InputFile(id=digest[:32], hash=f"blake3:{digest}", name="a.png", **fields))
        return content_key(digest)

    def start(self, *arguments: str, folder: str = "files") -> subprocess.Popen[str]:
        settings = {"data_dir": str(self.settings.data_dir), **bucket_settings(self.url)}
        settings["storage_url"] = f"s3://{BUCKET}/{folder}"
        settings["database_url"] = self.settings.ledger_url
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", "storage", "copy", *arguments],
            cwd=ROOT,
            env={**os.environ, **{f"COMFYLINE_{name.upper()}": value for name, value in settings.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0, folder: str = "files") -> str:
        process = self.start(*arguments, folder=folder)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == status, said
        return said

    def in_bucket(self) -> dict[str, bytes]:
        listed = self.s3.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())
        # Beside the marker, and what tried out the rights.
        keys = [item["Key"] for item in listed if not item["Key"].startswith((f"files/{NAME}", "files/checks/"))]
        return {
            key.removeprefix("files/"): self.s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys
        }

    def bucket_settings(self, folder: str = "files") -> Settings:
        """Those of a process of the fleet that has the bucket for its storage."""
        values: dict[str, Any] = bucket_settings(self.s3.url) | {"storage_url": f"s3://{BUCKET}/{folder}"}
        return Settings(data_dir=self.settings.data_dir, database_url=self.settings.database_url, **values)

    def marker(self, folder: str = "files") -> StorageMarker:
        """How such a process sees it."""
        return StorageMarker(self.bucket_settings(folder), self.ledger.storage_moves)

    def problem(self) -> str | None:
        """What such a process says of it."""
        return self.marker().problem()


def doctors_word(settings: Settings, mark: str) -> str:
    """What `comfyline doctor` says of the storage."""
    with contextlib.closing(look_only(settings)) as ledger:
        [check] = [check for check in server_checks(settings, ledger, with_broker=False) if check.subject == "storage"]
        [said] = check.look()
    assert said[0] == mark, said
    return said[1]


@pytest.fixture
def moving(ledger_settings: Settings, s3: S3Server) -> Iterator[Moving]:
    moving = Moving(ledger_settings, s3)
    yield moving
    moving.ledger.close()


def test_every_file_arrives_once_and_the_bucket_is_the_fleets(moving: Moving) -> None:
    contents = {f"outputs/{moving.output(f'picture {number}'.encode())}": number for number in range(5)}
    key = moving.input(b"an upload")
    assert "comfyline storage copy" in (moving.problem() or "")

    assert moving.run().startswith(f"6 files copied to s3://{BUCKET}/files, 0 were there")

    assert moving.in_bucket() == {
        f"inputs/{key}": b"an upload",
        **{name: f"picture {number}".encode() for name, number in contents.items()},
    }
    assert moving.problem() is None
    # What came since.
    later = moving.output(b"later")
    assert moving.run().startswith("1 files copied")
    assert moving.in_bucket()[f"outputs/{later}"] == b"later"


def test_a_file_that_is_not_what_the_ledger_says_stops_the_move(moving: Moving) -> None:
    key, well = moving.output(b"right"), moving.output(b"well")
    (moving.settings.outputs_dir / key).write_bytes(b"wrong")

    said = moving.run(status=1)

    asset = moving.ledger.outputs.output_at(key)
    assert f"{key} (asset {asset.id} of job {asset.job_id}) is not what the ledger says it is" in said
    assert list(moving.in_bucket()) == [f"outputs/{well}"]
    assert moving.problem() is not None


def test_files_that_are_gone_stop_the_move_until_the_operator_lets_them_go(moving: Moving) -> None:
    gone, upload, there = moving.output(b"gone"), moving.input(b"upload"), moving.output(b"there")
    (moving.settings.outputs_dir / gone).unlink()
    (moving.settings.inputs_dir / upload).unlink()
    asset = moving.ledger.outputs.output_at(gone)

    said = moving.run(status=1)

    assert f"{gone} (asset {asset.id} of job {asset.job_id}) is neither in the directory nor in the bucket" in said
    assert f"{upload} (asset {upload.rpartition('/')[2][:32]}) is neither" in said
    assert there not in said
    assert moving.problem() is not None
    said = moving.run("--despite-losses")
    assert gone in said
    assert moving.problem() is None


def test_the_first_process_on_the_bucket_moves_the_fleet_and_the_directory_is_refused(moving: Moving) -> None:
    with_directory = StorageMarker(moving.settings, moving.ledger.storage_moves)
    moving.run()
    with_directory.settle()
    assert moving.marker().is_next(), "the directory is the fleet's until something is started on the bucket"

    assert "moves the fleet there" in doctors_word(moving.bucket_settings(), "advice")
    for _ in range(2):
        moving.marker().settle()

    assert not moving.marker().is_next()
    with pytest.raises(ConfigurationError, match="no longer this fleet's storage: the fleet has moved"):
        with_directory.settle()
    assert "no longer this fleet's storage" in doctors_word(moving.settings, "wrong")
    # What came into the directory last is brought still, and the marker stays.
    late = moving.output(b"late")
    assert moving.run().startswith("1 files copied")
    assert f"outputs/{late}" in moving.in_bucket()
    assert moving.problem() is None


def test_a_process_that_runs_on_the_directory_notices_the_move(moving: Moving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_marker, "KNOWN_S", 0.0)
    monkeypatch.setattr(storage_marker, "HOLDS_S", 0.0)
    running = StorageMarker(moving.settings, moving.ledger.storage_moves)
    moving.run()
    assert running.problem() is None

    moving.marker().settle()

    until(lambda: running.problem() is not None)
    with pytest.raises(StorageUnavailable):
        running.require()


def test_of_two_buckets_that_were_filled_the_last_one_is_the_fleets(moving: Moving) -> None:
    moving.output(b"x")
    moving.run()
    first = moving.marker()
    moving.run(folder="second")

    with pytest.raises(ConfigurationError, match="one that it never moved to"):
        first.settle()
    moving.marker("second").settle()
    with pytest.raises(ConfigurationError, match="is not this fleet's storage"):
        first.settle()

    # Filled again, the first one is.
    moving.run()
    moving.marker().settle()
    with pytest.raises(ConfigurationError, match="no longer this fleet's storage"):
        moving.marker("second").settle()


def test_what_belongs_to_no_ended_job_stays(moving: Moving) -> None:
    (moving.settings.outputs_dir / "of-no-job").mkdir()
    (moving.settings.outputs_dir / "of-no-job" / "a.png").write_bytes(b"a")

    assert "1 belong to no job" in moving.run()

    assert moving.in_bucket() == {}


def test_one_that_is_killed_goes_on_where_it_was(moving: Moving) -> None:
    for number in range(6):
        moving.output(os.urandom(1000) + bytes([number]))
    gate = Gate(moving.s3.port)
    gate.delay_s = 0.3
    moving.url = gate.url
    process = moving.start()
    while not moving.in_bucket():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    gate.delay_s = 0.0
    assert moving.problem() is not None, "it is not the fleet's before it is whole"
    before = len(moving.in_bucket())

    said = moving.run()

    copied, known = (int(words.split()[0]) for words in said.split(", ")[:2])
    assert copied + known == 6
    assert known >= min(before, 1)
    assert moving.problem() is None
    gate.close()


def test_a_bucket_that_goes_away_is_said_in_one_line(moving: Moving) -> None:
    moving.output(b"x")
    gate = Gate(moving.s3.port)
    gate.close()
    moving.url = gate.url

    said = moving.run(status=4)

    assert said.count("\n") == 1, said
    assert "no connection to the S3 server" in said


def test_a_second_one_says_that_the_first_is_at_work(moving: Moving) -> None:
    moving.output(b"x")
    gate = Gate(moving.s3.port)
    hold = gate.hold(f"PUT /{BUCKET}/files/outputs/".encode())
    moving.url = gate.url
    first = moving.start()
    try:
        assert hold.has_come.wait(60), "its file"

        said = moving.run(status=4)

        assert said.count("\n") == 1, said
        assert f"{moving.settings.data_dir} is being copied already, by process {first.pid} on " in said
    finally:
        hold.let_go()
        told, _ = first.communicate(timeout=60)
        gate.close()
    assert (first.returncode, told.startswith("1 files copied")) == (0, True), told
    moving.url = moving.s3.url
    assert moving.run().startswith("0 files copied")


def test_one_that_is_killed_in_a_large_file_sends_little_of_it_twice(moving: Moving) -> None:
    content = os.urandom(40 * MIB)
    key = moving.output(content)
    with faulty_bucket(moving.s3.port) as front:
        front.bytes_per_s = 10 * MIB
        moving.url = front.url
        process = moving.start()
        until(
            lambda: front.sent_bytes(lambda asked: asked.is_part) >= 16 * MIB or process.poll() is not None,
            what="some parts",
            timeout_s=60,
        )
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        front.bytes_per_s = None

        moving.run()

        assert front.sent_bytes(lambda asked: asked.is_part) <= len(content) + 32 * MIB
    assert moving.in_bucket()[f"outputs/{key}"] == content
    assert moving.problem() is None


@pytest.mark.parametrize(("status", "code"), [(507, "XMinioStorageFull"), (403, "QuotaExceeded")])
def test_a_bucket_that_is_full_is_said_in_one_line_and_what_came_stays(moving: Moving, status: int, code: str) -> None:
    for number in range(12):
        moving.output(os.urandom(1000) + bytes([number]))
    with faulty_bucket(moving.s3.port) as front:
        moving.url = front.url
        room = itertools.count()
        front.rule = lambda asked: Fault(status=status, code=code) if is_output(asked) and next(room) >= 5 else None

        said = moving.run(status=4)

        assert said.count("\n") == 1, said
        assert "the bucket is full (PutObject: " in said
        assert "run the command again" in said
        assert moving.problem() is not None
        assert len(moving.in_bucket()) == 5
        front.rule = lambda _asked: None
        assert moving.run().startswith("7 files copied")
    assert moving.problem() is None


def test_a_bucket_that_forgets_a_file_is_not_ready(moving: Moving) -> None:
    moving.output(b"first")
    forgotten = moving.output(b"forgotten")
    with faulty_bucket(moving.s3.port) as front:
        moving.url = front.url
        front.rule = lambda asked: Fault(status=200) if is_output(asked) and forgotten in asked.key else None

        said = moving.run(status=4)

        assert said.count("\n") == 1, said
        assert "has not kept an object that it took" in said
        assert moving.problem() is not None
        front.rule = lambda _asked: None
        moving.run()
    assert moving.problem() is None
    assert f"outputs/{forgotten}" in moving.in_bucket()


def test_a_slow_bucket_is_waited_for(moving: Moving) -> None:
    content = os.urandom(300_000)
    key = moving.output(content)
    with faulty_bucket(moving.s3.port) as front:
        moving.url = front.url
        front.bytes_per_s = 100_000
        assert moving.run().startswith("1 files copied")
    assert moving.in_bucket()[f"outputs/{key}"] == content


def is_output(asked: Asked) -> bool:
    """Whether a file is brought."""
    return asked.writes and asked.key.startswith("files/outputs/")


def test_the_directory_has_to_be_the_fleets(moving: Moving, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()

    assert "is not this fleet's storage" in moving.run("--from", str(tmp_path / "other"), status=2)
