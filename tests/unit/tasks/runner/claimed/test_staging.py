"""Input files on their way to an instance, and away from it."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from blake3 import blake3

from comfy.client.client import ComfyClient, UploadedFile
from core.errors import ComfylineError, ComfyUnavailable, InputGone, PromptRejected, StorageUnavailable
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from core.records.job import InputRef
from core.storage.folders import BucketFault, LocalStorage, content_key
from core.storage.placing import Told
from tasks.runner.claimed import staging
from tasks.runner.claimed.staging import remove_staged, stage_inputs
from tests.ledger_moves import claimed
from tests.makers import BrokerlessRuntime, come_up


class Server:
    """An attached instance: what was uploaded to it, and what it answers with."""

    def __init__(self) -> None:
        self.uploaded: list[tuple[str, bytes]] = []
        self.errors: list[ComfylineError | None] = []

    def upload_image(self, content: Path | bytes, *, name: str, subfolder: str, overwrite: bool) -> UploadedFile:
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.uploaded.append((f"{subfolder}/{name}", content if isinstance(content, bytes) else content.read_bytes()))
        return UploadedFile(name=name, subfolder=subfolder, type="input")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    """A job with two input files, which are in storage."""
    storage = LocalStorage(runtime.settings.inputs_dir)
    for key in ("a", "b"):
        draft = storage.draft()
        draft.write_text(key)
        storage.put(f"k/{key}", draft)
    return claimed(runtime.ledger, inputs=tuple(InputRef(name=f"job/{key}.png", key=f"k/{key}") for key in "ab"))


def staged(runtime: BrokerlessRuntime) -> Path:
    return runtime.settings.gpu_dir("gpu0") / "input"


def stage(runtime: BrokerlessRuntime, claim: Claim, instance: InstanceRecord, server: Server) -> None:
    stage_inputs(claim, instance, cast(ComfyClient, server), runtime.settings)


def remove(runtime: BrokerlessRuntime, claim: Claim, instance: InstanceRecord, server: Server) -> None:
    remove_staged(claim, instance, cast(ComfyClient, server), runtime.settings)


class TestOfOurs:
    def test_files_lie_where_the_graph_names_them(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server
    ) -> None:
        instance = come_up(runtime.ledger)
        for _ in range(2):
            stage(runtime, claim, instance, server)
        assert {path.name: path.read_text() for path in (staged(runtime) / "job").iterdir()} == {
            "a.png": "a",
            "b.png": "b",
        }
        assert server.uploaded == []

    def test_they_go_with_the_jobs_folder(self, runtime: BrokerlessRuntime, claim: Claim, server: Server) -> None:
        instance = come_up(runtime.ledger)
        stage(runtime, claim, instance, server)
        own = staged(runtime) / claim.job_id / "deeper"
        own.mkdir(parents=True)
        for _ in range(2):
            remove(runtime, claim, instance, server)
        assert not own.parent.exists()
        assert list((staged(runtime) / "job").iterdir()) == []
        assert server.uploaded == []

    def test_a_job_without_files_touches_nothing(self, runtime: BrokerlessRuntime, server: Server) -> None:
        stage(runtime, claimed(runtime.ledger), come_up(runtime.ledger), server)
        assert not runtime.settings.inputs_dir.exists()

    def test_what_storage_has_no_more_is_gone(self, runtime: BrokerlessRuntime, claim: Claim, server: Server) -> None:
        (runtime.settings.inputs_dir / "k" / "b").unlink()
        with pytest.raises(InputGone):
            stage(runtime, claim, come_up(runtime.ledger), server)

    @pytest.mark.parametrize("kind", ["full", "broken"])
    def test_another_machine_may_have_room(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        number = errno.ENOSPC if kind == "full" else errno.EIO

        def fail(*_arguments: object) -> None:
            raise OSError(number, "x")

        monkeypatch.setattr(LocalStorage, "copy", fail)
        with pytest.raises(ComfyUnavailable if kind == "full" else OSError, match="no room" if kind == "full" else "x"):
            stage(runtime, claim, come_up(runtime.ledger), server)


class TestElsewhere:
    def attached(self, runtime: BrokerlessRuntime) -> InstanceRecord:
        return come_up(runtime.ledger, kind="attached")

    def test_files_are_sent(self, runtime: BrokerlessRuntime, claim: Claim, server: Server) -> None:
        stage(runtime, claim, self.attached(runtime), server)
        assert server.uploaded == [("job/a.png", b"a"), ("job/b.png", b"b")]
        assert not staged(runtime).exists()

    def test_they_are_written_over_with_nothing(self, runtime: BrokerlessRuntime, claim: Claim, server: Server) -> None:
        own = staged(runtime) / claim.job_id
        own.mkdir(parents=True)
        remove(runtime, claim, self.attached(runtime), server)
        assert server.uploaded == [("job/a.png", b""), ("job/b.png", b"")]
        assert own.exists(), "nothing here is its"

    @pytest.mark.parametrize(("error", "count"), [(PromptRejected("no"), 1), (ComfyUnavailable("away"), 0)])
    def test_what_cannot_be_reached_is_passed_over(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, error: Any, count: int
    ) -> None:
        server.errors = [error]
        remove(runtime, claim, self.attached(runtime), server)
        assert len(server.uploaded) == count, "a refusal is of one file, an absence of all"


class Bucket(LocalStorage):
    """A storage that takes a network, as far as staging goes; notes which thread fetched what."""

    is_remote = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: list[tuple[str, str]] = []
        self.fault: OSError | None = None

    def copy(self, key: str, target: Path, told: Told | None = None) -> None:
        self.fetched.append((key, threading.current_thread().name))
        if self.fault is not None:
            raise self.fault
        super().copy(key, target)
        if told is not None:
            told(1, 2)


class TestOfABucket:
    @pytest.fixture
    def bucket(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> Bucket:
        bucket = Bucket(runtime.settings.inputs_dir)
        monkeypatch.setattr(staging, "input_storage", lambda _settings: bucket)
        runtime.settings.make_data_dir()
        return bucket

    @pytest.fixture
    def claim(self, runtime: BrokerlessRuntime, bucket: Bucket) -> Claim:
        """A job with two input files, which are in the bucket."""
        refs = []
        for text in "ab":
            draft, key = bucket.draft(), content_key(blake3(text.encode()).hexdigest())
            draft.write_text(text)
            bucket.put(key, draft)
            refs.append(InputRef(name=f"job/{text}.png", key=key))
        return claimed(runtime.ledger, inputs=tuple(refs))

    def test_each_comes_down_once(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, bucket: Bucket
    ) -> None:
        instance = come_up(runtime.ledger)
        for _ in range(2):
            stage(runtime, claim, instance, server)
            assert sorted(path.read_text() for path in (staged(runtime) / "job").iterdir()) == ["a", "b"]
            remove(runtime, claim, instance, server)
        assert [key for key, _ in bucket.fetched] == [file.key for file in claim.inputs]
        assert list((staged(runtime) / "job").iterdir()) == []

    def test_several_come_at_once(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, bucket: Bucket
    ) -> None:
        with ThreadPoolExecutor(2, thread_name_prefix="files") as threads:
            stage_inputs(claim, come_up(runtime.ledger), cast(ComfyClient, server), runtime.settings, threads)
        assert all(thread.startswith("files") for _, thread in bucket.fetched)
        assert len(list((staged(runtime) / "job").iterdir())) == 2

    def test_to_an_attached_instance_they_are_sent(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, bucket: Bucket
    ) -> None:
        for _ in range(2):
            stage(runtime, claim, come_up(runtime.ledger, kind="attached"), server)
        assert server.uploaded == [("job/a.png", b"a"), ("job/b.png", b"b")] * 2
        assert len(bucket.fetched) == 2
        assert list((runtime.settings.inputs_dir / ".drafts").iterdir()) == []

    def test_its_faults_are_no_faults_of_the_job(
        self, runtime: BrokerlessRuntime, claim: Claim, server: Server, bucket: Bucket
    ) -> None:
        bucket.fault = BucketFault(errno.ENOSPC, "the bucket is full")
        with ThreadPoolExecutor(2) as threads, pytest.raises(StorageUnavailable):
            stage_inputs(claim, come_up(runtime.ledger), cast(ComfyClient, server), runtime.settings, threads)
        bucket.fault = FileNotFoundError("none")
        with pytest.raises(InputGone):
            stage(runtime, claim, come_up(runtime.ledger), server)
