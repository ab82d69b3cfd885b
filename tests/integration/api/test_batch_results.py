"""What a batch made: as an archive, a table and a contact sheet, wherever jobs and files are kept."""

from __future__ import annotations

import csv
import io
import json
import socket
import threading
import tracemalloc
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image
from sqlalchemy import insert, select

from api.http import files
from api.service.batch_results import archive as archives
from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.records.job import Job
from core.storage.backend import output_storage
from tests.batch_rows import fail, picture, put_batch
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.integration.api.test_tenants import Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.s3_server import S3Server
from tests.waiting import eventually

FORMULA = '=HYPERLINK("http://x")'
#: The server asks for keys from its start: the first one that a test makes would close it.
KEY = "k-own"


@pytest.fixture(scope="module", params=["sqlite", "postgres and bucket"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with running_api(settings_for(folder, api_keys=(KEY,))) as running:
            running.worker.come_up()
            running.session.headers["Authorization"] = f"Bearer {KEY}"
            yield running
        return
    server = S3Server()
    server.empty(BUCKET)
    try:
        with postgres_database() as url:
            settings = settings_for(
                folder, api_keys=(KEY,), database_url=url, allow_networks=("loopback",), **bucket_settings(server.url)
            )
            with running_api(settings) as running:
                running.worker.come_up()
                running.session.headers["Authorization"] = f"Bearer {KEY}"
                yield running
    finally:
        server.stop()


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A batch of which two have ended well, one badly, one runs and one waits."""

    batch: str
    jobs: list[Job]
    contents: dict[str, bytes]


@pytest.fixture(scope="module")
def mixed(api: Api) -> Mixed:
    over = [{"prompt": text, "seed": seed} for text, seed in (("a", 1), (FORMULA, 2), ("b", 3), ("c", 4), ("d", 5))]
    batch, jobs = put_batch(api.ledger, over)
    contents = {jobs[0].id: picture("0", (90, 20, 20)), jobs[1].id: picture("1", (20, 90, 20))}
    api.worker.run(jobs[0].id, contents[jobs[0].id], b"second")
    api.worker.run(jobs[1].id, contents[jobs[1].id])
    fail(api, jobs[2], "boom, and loudly")
    api.worker.claim(jobs[3].id)
    return Mixed(batch=batch, jobs=jobs, contents=contents)


def archive_of(api: Api, batch: str) -> zipfile.ZipFile:
    answer = api.get(f"/api/v2/batches/{batch}/outputs.zip")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/zip"
    file = zipfile.ZipFile(io.BytesIO(answer.content))
    assert file.testzip() is None
    return file


class TestArchive:
    def test_it_has_all_files_and_says_what_is_not_there_yet(self, api: Api, mixed: Mixed) -> None:
        file = archive_of(api, mixed.batch)
        folder = f"batch-{mixed.batch}"
        assert file.namelist() == [
            f"{folder}/00000_prompt=a_seed=1.png",
            f"{folder}/00000_prompt=a_seed=1_2.png",
            f"{folder}/00001_prompt==HYPERLINK-http-x_seed=2.png",
            f"{folder}/manifest.json",
        ]
        assert file.read(file.namelist()[0]) == mixed.contents[mixed.jobs[0].id]
        assert file.infolist()[0].compress_type == zipfile.ZIP_STORED
        told = json.loads(file.read(f"{folder}/manifest.json"))
        assert (told["batch"], told["is_complete"]) == (mixed.batch, False)
        assert told["by_status"] == {"succeeded": 2, "failed": 1, "running": 1, "queued": 1}
        assert [job["index"] for job in told["jobs"]] == [0, 1, 2, 3, 4]
        assert told["jobs"][2]["error"] == {"code": "node_execution_error", "message": "boom, and loudly"}
        assert told["jobs"][1]["varied"]["prompt"] == FORMULA
        assert told["jobs"][0]["files"] == file.namelist()[:2]

    def test_a_file_that_is_gone_is_told_of(self, api: Api) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": 1}, {"n": 2}])
        for job in jobs:
            api.worker.run(job.id, b"content")
        output_storage(api.settings).remove_folder(jobs[0].id)
        told = json.loads((file := archive_of(api, batch)).read(file.namelist()[-1]))
        assert told["is_complete"]
        assert told["jobs"][0]["files"] == []
        assert "no longer there" in told["jobs"][0]["missing"][0]["why"]
        assert len(told["jobs"][1]["files"]) == 1

    def test_huge_names_are_safe(self, api: Api) -> None:
        nasty = {"../" * 50 + "x": "\0\n/\\" + "é" * 10_000, "seed": 1}
        batch, jobs = put_batch(api.ledger, [nasty, {**nasty, "seed": 2}])
        for job in jobs:
            api.worker.run(job.id, b"content")
        names = archive_of(api, batch).namelist()
        assert len(set(names)) == 3
        assert all(len(name.encode()) < 255 and ".." not in name and name.count("/") == 1 for name in names)

    def test_a_file_of_more_than_four_gib_is_zip64(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The limit is lowered in place of the file being large.
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
        sink = archives._Sink()
        target = zipfile.ZipFile(sink, "w", allowZip64=True)
        info = zipfile.ZipInfo("x")
        info.file_size = 5000
        content = b"".join(archives._stored(target, sink, info, io.BytesIO(b"y" * 5000)))
        target.close()
        monkeypatch.undo()
        with zipfile.ZipFile(io.BytesIO(content + sink.taken())) as made:
            assert made.read("x") == b"y" * 5000

    def test_who_hangs_up_frees_the_file_that_is_read(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": n} for n in range(3)])
        for job in jobs:
            api.worker.run(job.id, b"x" * 8_000_000)
        opened: list[Any] = []
        real = files.open_output

        def watched(*arguments: Any) -> Any:
            opened.append(real(*arguments))
            return opened[-1]

        monkeypatch.setattr(archives, "open_output", watched)
        address = urlsplit(api.url)
        with socket.create_connection((address.hostname, address.port or 80)) as connection:
            connection.sendall(
                f"GET /api/v2/batches/{batch}/outputs.zip HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Authorization: Bearer {KEY}\r\n\r\n".encode()
            )
            assert connection.recv(1000)
        assert eventually(lambda: bool(opened) and all(each.closed for each in opened), 10)
        assert len(opened) < 3, "it did not go on"

    def test_its_memory_is_flat(self) -> None:
        class Endless(io.RawIOBase):
            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                return len(buffer)

        sink = archives._Sink()
        target = zipfile.ZipFile(sink, "w", allowZip64=True)
        info = zipfile.ZipInfo("x")
        info.file_size = 300_000_000
        tracemalloc.start()
        sent = sum(len(piece) for piece in archives._stored(target, sink, info, Endless()))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sent > 300_000_000
        assert peak_bytes < 4_000_000


class TestTable:
    def test_as_json(self, api: Api, mixed: Mixed) -> None:
        table = api.get(f"/api/v2/batches/{mixed.batch}/table.json").json()
        assert (table["batch"], table["varied"]) == (mixed.batch, ["prompt", "seed"])
        rows = table["rows"]
        assert [(row["index"], row["status"], row["seed"]) for row in rows] == [
            (0, "succeeded", 1),
            (1, "succeeded", 2),
            (2, "failed", 3),
            (3, "running", 4),
            (4, "queued", 5),
        ]
        assert rows[0]["seconds"] >= 0
        assert rows[2]["error"] == {"code": "node_execution_error", "message": "boom, and loudly"}
        assert requests.get(rows[1]["outputs"][0]["url"], timeout=10).content == mixed.contents[mixed.jobs[1].id]

    def test_as_csv(self, api: Api, mixed: Mixed) -> None:
        answer = api.get(f"/api/v2/batches/{mixed.batch}/table.csv")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "attachment" in answer.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert list(rows[0]) == [
            *("index", "job_id", "status", "prompt", "seed", "seconds", "error_code", "error", "outputs")
        ]
        assert [row["job_id"] for row in rows] == [job.id for job in mixed.jobs]
        assert rows[1]["prompt"] == f"'{FORMULA}", "no spreadsheet takes it for a formula"
        assert len(rows[0]["outputs"].split()) == 2

    def test_names_that_have_a_column_already(self, api: Api) -> None:
        batch, _ = put_batch(api.ledger, [{"status": "x", "=cmd": -5, "3.seed": 7}, {"added": True}])
        rows = list(csv.reader(io.StringIO(api.get(f"/api/v2/batches/{batch}/table.csv").text)))
        assert rows[0][3:8] == ["varied.status", "'=cmd", "3.seed", "added", "seed"]
        assert rows[1][3:8] == ["x", "-5", "7", "", "7"]

    def test_of_more_jobs_than_are_read_at_once(self, api: Api) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": n} for n in range(250)])
        rows = api.get(f"/api/v2/batches/{batch}/table.json").json()["rows"]
        assert [row["job_id"] for row in rows] == [job.id for job in jobs]


class TestSheet:
    def test_a_page_as_png_and_as_webp(self, api: Api, mixed: Mixed) -> None:
        for kind in ("png", "webp"):
            answer = api.get(f"/api/v2/batches/{mixed.batch}/sheet.{kind}")
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == f"image/{kind}"
            assert answer.headers["Sheet-Pages"] == "1"
            image = Image.open(io.BytesIO(answer.content))
            assert image.format == kind.upper()
            pixels = image.convert("RGB")
            places = [(x, y) for x in range(0, image.width, 3) for y in range(0, image.height, 3)]
            colours = {pixels.getpixel(place) for place in places}
            assert any(_near(each, (90, 20, 20)) for each in colours), "the first picture"
            assert any(_near(each, (253, 237, 236)) for each in colours), "the one that failed"

    def test_it_is_made_again_only_when_something_changed(self, api: Api) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": 1}, {"n": 2}])
        api.worker.run(jobs[0].id, picture("0", (9, 9, 90)))
        path = f"/api/v2/batches/{batch}/sheet.png"
        first = api.get(path)
        assert api.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
        assert api.get(path).content == first.content
        assert api.get(f"{path}?cell=128", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
        api.worker.run(jobs[1].id, picture("1", (9, 90, 9)))
        again = api.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 200
        assert again.content != first.content

    def test_what_is_no_picture_is_told_in_words(self, api: Api) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": n} for n in range(3)])
        api.worker.run(jobs[0].id, b"no picture at all")
        api.worker.run(jobs[1].id, picture("x", (1, 1, 1))[:200])
        api.worker.run(jobs[2].id, picture("x", (200, 10, 10)))
        output_storage(api.settings).remove_folder(jobs[2].id)
        assert api.get(f"/api/v2/batches/{batch}/sheet.png").status_code == 200

    def test_pages(self, api: Api) -> None:
        batch, _ = put_batch(api.ledger, [{"n": n} for n in range(130)])
        path = f"/api/v2/batches/{batch}/sheet.png"
        sizes = {}
        for page in (1, 2):
            answer = api.get(f"{path}?page={page}&cell=64")
            assert answer.headers["Sheet-Pages"] == "2"
            sizes[page] = Image.open(io.BytesIO(answer.content)).size
        assert sizes[1][1] > sizes[2][1]
        assert api.get(f"{path}?page=3").status_code == 422
        for query in ("page=0", "page=x", "cell=63", "cell=513", "page=-1", "cell=1e3"):
            assert api.get(f"{path}?{query}").status_code == 400, query

    def test_ten_thousand_are_in_pages_of_bounded_size(self, api: Api) -> None:
        batch, jobs = put_batch(api.ledger, [{"n": 0}])
        rows = [{"a": n // 100, "b": n % 100} for n in range(10_000)]
        _copy_rows(api.ledger, jobs[0].id, batch, rows)
        answer = api.session.get(f"{api.url}/api/v2/batches/{batch}/sheet.webp?page=40", timeout=60)
        assert answer.status_code == 200, answer.text
        width, height = Image.open(io.BytesIO(answer.content)).size
        assert width * height < 40_000_000

    def test_several_at_once(self, api: Api, mixed: Mixed) -> None:
        found: list[int] = []

        def ask(cell: int) -> None:
            path = f"/api/v2/batches/{mixed.batch}/sheet.png?cell={cell}"
            headers = {"Authorization": f"Bearer {KEY}"}
            found.append(requests.get(api.url + path, headers=headers, timeout=30).status_code)

        threads = [threading.Thread(target=ask, args=(100 + n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [200] * 6


PATHS = ("outputs.zip", "table.json", "table.csv", "sheet.png", "sheet.webp")


@pytest.mark.parametrize("path", PATHS)
def test_another_tenants_batch_does_not_exist(api: Api, path: str) -> None:
    acme, globex = (Client(api, name) for name in ("res-acme", "res-globex"))
    batch, _ = put_batch(api.ledger, [{"n": 1}], tenant="res-acme")
    nobodys = str(uuid.uuid4())
    theirs, none = (globex.ask("GET", f"/api/v2/batches/{each}/{path}") for each in (batch, nobodys))
    assert theirs.status_code == none.status_code == 404
    assert theirs.text.replace(batch, nobodys) == none.text
    assert acme.ask("GET", f"/api/v2/batches/{batch}/{path}").status_code == 200
    assert Client(api, "res-acme", "submit").ask("GET", f"/api/v2/batches/{batch}/{path}").status_code == 403
    assert Client(api, "default", "read", "operate").ask("GET", f"/api/v2/batches/{batch}/{path}").status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_ids_that_can_be_none(api: Api, path: str) -> None:
    for batch in ("..%00", "x%0a", "a" * 200):
        assert api.get(f"/api/v2/batches/{batch}/{path}").status_code == 404


def _near(one: Any, other: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(one, other, strict=True))


def _copy_rows(ledger: Ledger, job_id: str, batch: str, rows: list[dict[str, Any]]) -> None:
    """Put many jobs into a batch, all like one: what comes of them is not of interest."""
    with ledger.database.write() as transaction:
        row = dict(transaction.connection.execute(select(jobs).where(jobs.c.id == job_id)).one()._mapping)
        made = [
            {**row, "id": str(uuid.uuid4()), "batch_index": index, "varied": varied, "status": "canceled"}
            for index, varied in enumerate(rows, 1)
        ]
        transaction.connection.execute(insert(jobs), made)
