"""Archives of many gigabytes from the API as it is served: its memory stays as it is, and nothing is left behind.

With COMFYLINE_TEST_LONG=1 they have more than 10 GB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from sqlalchemy import update

from core.ledger import Ledger
from core.ledger.database.tables import assets
from core.ledger.upgrade import migrate
from core.storage.backend import output_storage
from tests.batch_rows import put_batch
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for
from tests.s3_server import S3Server
from tests.served_processes import ServedProcesses
from tests.sparse_bucket import SparseBucket, sparse_bucket
from tests.waiting import eventually

pytestmark = pytest.mark.slow

GIB = 1024**3
MIB = 1024**2
#: One file of more than 4 GiB, and one that begins behind them.
SIZES = (
    (5 * GIB + 3, 3 * GIB, 2 * GIB + 1) if os.environ.get("COMFYLINE_TEST_LONG") else (4 * GIB + 3, MIB, 2 * MIB + 1)
)
#: What an archive may take of memory, however large it is.
MOST_BYTES = 48 * MIB


@dataclass(frozen=True, kw_only=True)
class Served:
    """An API with one batch of huge files."""

    url: str
    batch: str
    data_dir: Path
    outputs_dir: Path
    processes: ServedProcesses
    #: None: they are in a directory.
    bucket: SparseBucket | None

    def archive(self) -> requests.Response:
        address = f"{self.url}/api/v2/batches/{self.batch}/outputs.zip"
        answer = requests.get(address, stream=True, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture(params=["directory", "bucket"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        front, more = None, {}
        if request.param == "bucket":
            server = S3Server()
            stack.callback(server.stop)
            server.empty(BUCKET)
            front = stack.enter_context(sparse_bucket(server.port))
            more = {**bucket_settings(front.url), "allow_networks": "loopback"}
        settings = settings_for(tmp_path, **{**more, **({"allow_networks": ("loopback",)} if more else {})})
        migrate(settings)
        ledger = Ledger(settings)
        stack.callback(ledger.close)
        worker = Worker(ledger, settings.outputs_dir, output_storage(settings))
        worker.come_up()
        batch, jobs = put_batch(ledger, [{"n": n} for n in range(len(SIZES))])
        for number, (job, size) in enumerate(zip(jobs, SIZES, strict=True)):
            worker.run(job.id, b"to be made larger")
            [output] = ledger.jobs.get(job.id).outputs
            with ledger.database.write() as transaction:
                larger = update(assets).where(assets.c.id == output.id).values(size_bytes=size)
                transaction.connection.execute(larger)
            key = output.storage_key or ""
            if front is not None:
                front.sizes[key] = size
                continue
            with (settings.outputs_dir / key).open("r+b") as file:
                file.truncate(0)
                file.seek(size - 8)
                file.write(f"END-{number:04}".encode())
        environment = {f"COMFYLINE_{name.upper()}": value for name, value in more.items()}
        url = stack.enter_context(gunicorn_api(settings, **environment))
        # What is loaded and opened once is no growth.
        requests.get(f"{url}/api/v2/batches/{batch}/table.json", timeout=20).raise_for_status()
        yield Served(
            url=url,
            batch=batch,
            data_dir=tmp_path,
            outputs_dir=settings.outputs_dir,
            processes=ServedProcesses(url),
            bucket=front,
        )


def test_a_large_archive_is_whole_and_takes_no_memory(served: Served, tmp_path: Path) -> None:
    served.processes.note_memory()
    file = tmp_path / "outputs.zip"
    with served.archive() as answer:
        _write_sparse(answer, file)
    grown_bytes = served.processes.grown_bytes()
    print(f"{file.stat().st_size} bytes, {grown_bytes / MIB:.1f} MiB more memory")
    assert grown_bytes < MOST_BYTES
    with zipfile.ZipFile(file) as archive:
        *files, manifest = archive.infolist()
        assert [each.file_size for each in files] == list(SIZES)
        assert files[2].header_offset > sum(SIZES[:2]) > 4 * GIB
        assert manifest.filename.endswith("/manifest.json")
        assert archive.testzip() is None, "every byte is as its checksum says"
    # A reader that is not Python's, where there is one.
    if zipinfo := shutil.which("zipinfo"):
        told = subprocess.run([zipinfo, "-l", str(file)], capture_output=True, text=True, check=True).stdout
        assert all(f" {size} " in told for size in SIZES)


def test_who_hangs_up_midway_leaves_nothing_behind(served: Served) -> None:
    before, files_before = _open_files(served), _files(served.data_dir)
    with served.archive() as answer:
        # Kept, since an iterator that nobody holds any more hangs up by itself.
        pieces = answer.iter_content(MIB)
        read_bytes = 0
        while read_bytes <= 300 * MIB:
            read_bytes += len(next(pieces))
        if served.bucket is None:
            assert _open_files(served) != before, "the file is being read"
    assert eventually(lambda: _open_files(served) == before, 20)
    assert _files(served.data_dir) == files_before
    if served.bucket is not None:
        assert eventually(lambda: _is_quiet(served.bucket), 20), "the rest is not fetched"
        assert served.bucket.zeros_sent < 600 * MIB
    # The process goes on.
    requests.get(f"{served.url}/api/v2/batches/{served.batch}/table.json", timeout=20).raise_for_status()


def _is_quiet(bucket: SparseBucket | None) -> bool:
    assert bucket is not None
    sent_bytes = bucket.zeros_sent
    time.sleep(0.5)
    return bucket.zeros_sent == sent_bytes


def _write_sparse(answer: requests.Response, file: Path) -> None:
    """Save an answer; zeros become holes, so that it takes no room."""
    with file.open("wb") as target:
        for piece in answer.iter_content(MIB):
            if piece.count(0) == len(piece):
                target.seek(len(piece), 1)
            else:
                target.write(piece)
        target.truncate()


def _open_files(served: Served) -> list[str]:
    """Files of the storage that the API has open, and deleted ones wherever they were."""
    outputs = str(served.outputs_dir)
    return [name for name in served.processes.open_files() if name.startswith(outputs) or name.endswith("(deleted)")]


def _files(folder: Path) -> set[Path]:
    # The ledger's own come and go.
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("ledger.db")}
