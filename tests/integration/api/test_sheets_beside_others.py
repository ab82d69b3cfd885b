"""A contact sheet of a thousand pictures, from the API as it is served: others are answered while it is drawn."""

from __future__ import annotations

import io
import random
import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from sqlalchemy import insert, select

from core.ledger import Ledger
from core.ledger.database.tables import assets, jobs
from core.ledger.upgrade import migrate
from tests.batch_rows import put_batch
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for

pytestmark = pytest.mark.slow

PICTURES, EDGE_PX = 1_000, 1024
#: An answer may take this part of the time that a page takes: if one process did both in turn, it would take all of it.
MOST_OF_A_PAGE = 0.35


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How others fared while something went on."""

    took_s: list[float]

    @property
    def worst_s(self) -> float:
        return max(self.took_s)


@pytest.fixture(scope="module")
def sheet_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The API, and the path of the sheet."""
    settings = settings_for(tmp_path_factory.mktemp("api"))
    migrate(settings)
    ledger = Ledger(settings)
    worker = Worker(ledger, settings.outputs_dir)
    worker.come_up()
    batch, [first] = put_batch(ledger, [{"n": 0}])
    content = _picture()
    worker.run(first.id, content)
    _copy(ledger, first.id, settings.outputs_dir, content)
    ledger.close()
    with gunicorn_api(settings) as url:
        yield url, f"{url}/api/v2/batches/{batch}/sheet.png"


def test_others_are_answered_while_all_pages_of_a_thousand_pictures_are_drawn(sheet_url: tuple[str, str]) -> None:
    url, sheet = sheet_url
    pages: list[float] = []

    def draw() -> None:
        count = 1
        while len(pages) < count:
            begun_s = time.monotonic()
            answer = requests.get(sheet, params={"page": len(pages) + 1}, timeout=120)
            answer.raise_for_status()
            count = int(answer.headers["Sheet-Pages"])
            assert Image.open(io.BytesIO(answer.content)).width > 1000
            pages.append(time.monotonic() - begun_s)

    drawing = threading.Thread(target=draw)
    drawing.start()
    asked = _ask_while(drawing, url)
    drawing.join()
    print(
        f"{len(pages)} pages in {sum(pages):.1f} s, the quickest in {min(pages[:-1]):.2f} s; beside them "
        f"{len(asked.took_s)} answers, p50 {1000 * statistics.median(asked.took_s):.0f} ms, worst "
        f"{1000 * asked.worst_s:.0f} ms"
    )
    assert len(pages) == 9
    # The last one is shorter.
    assert asked.worst_s < MOST_OF_A_PAGE * min(pages[:-1])
    assert len(asked.took_s) > 20 * len(pages)


def _ask_while(drawing: threading.Thread, url: str) -> Asked:
    """Ask for small things, one after the other, for as long as the thread goes on."""
    took_s: list[float] = []
    with requests.Session() as session:
        while drawing.is_alive():
            begun_s = time.monotonic()
            session.get(f"{url}/api/v2/jobs?limit=1", timeout=60).raise_for_status()
            took_s.append(time.monotonic() - begun_s)
            time.sleep(0.01)
    return Asked(took_s=took_s)


def _picture() -> bytes:
    """A picture that is work to decode, and small as a file."""
    coarse = Image.frombytes("RGB", (128, 128), random.Random(7).randbytes(128 * 128 * 3))
    target = io.BytesIO()
    coarse.resize((EDGE_PX, EDGE_PX), Image.Resampling.NEAREST).save(target, "PNG")
    return target.getvalue()


def _copy(ledger: Ledger, job_id: str, outputs_dir: Path, content: bytes) -> None:
    """Put jobs into the batch that are like the one it has, until there are enough; each with a file of its own."""
    with ledger.database.write() as transaction:
        connection = transaction.connection
        job = dict(connection.execute(select(jobs).where(jobs.c.id == job_id)).one()._mapping)
        asset = dict(connection.execute(select(assets).where(assets.c.job_id == job_id)).one()._mapping)
        job_rows: list[dict[str, Any]] = []
        asset_rows: list[dict[str, Any]] = []
        for number in range(1, PICTURES):
            own, file = str(uuid.uuid4()), str(uuid.uuid4())
            key = f"{own}/{file}/{asset['name']}"
            path = outputs_dir / key
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            job_rows.append({**job, "id": own, "batch_index": number, "varied": {"n": number}})
            # Thumbnails are kept by their hashes.
            digest = f"blake3:{number:064x}"
            asset_rows.append({**asset, "id": file, "job_id": own, "storage_key": key, "hash": digest})
        connection.execute(insert(jobs), job_rows)
        connection.execute(insert(assets), asset_rows)
