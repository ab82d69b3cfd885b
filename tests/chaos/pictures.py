"""Whether each job has the picture it asked for, byte for byte as it was stored.

The bytes cannot be known beforehand: a PNG of ComfyUI holds the graph, and the graph the job's own output folder. So
the picture is decoded. Its size and colour are those of one order only, its text names one job only, and the hash that
was recorded when it was stored is the hash of what the API serves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping

import requests
from blake3 import blake3
from PIL import Image

from core.records.job import SUCCEEDED
from tests.chaos.books import Entry
from tests.chaos.orders import SIZE_PX, Order


def wrong_pictures(
    base_url: str, entries: Iterable[Entry], orders: dict[str, Order], headers: Mapping[str, str]
) -> Iterator[str]:
    """What is wrong with the jobs and their outputs as the API shows them to an operator."""
    with requests.Session() as session:
        session.headers.update(headers)
        for entry in entries:
            yield from _wrong_job(session, base_url, entry, orders[entry.name])


def _wrong_job(session: requests.Session, base_url: str, entry: Entry, order: Order) -> Iterator[str]:
    job_id = entry.row["id"]
    job = session.get(f"{base_url}/api/v2/jobs/{job_id}", timeout=10).json()
    if job["status"] != entry.row["status"]:
        yield f"{order.name}: {job['status']} to its client, {entry.row['status']} in the ledger"
    if len(job["outputs"]) != int(job["status"] == SUCCEEDED):
        yield f"{order.name}: {job['status']} with {len(job['outputs'])} outputs"
    for output in job["outputs"]:
        answer = session.get(output["url"], timeout=10)
        if answer.status_code != requests.codes.ok:
            yield f"{order.name}: its picture answers {answer.status_code}"
        elif output["hash"] != f"blake3:{blake3(answer.content).hexdigest()}":
            yield f"{order.name}: its picture is not what was stored"
        elif (found := _content(answer.content)) != (SIZE_PX, order.color, job_id):
            yield f"{order.name}: its picture shows {found}"


def _content(data: bytes) -> tuple[tuple[int, int], int, str]:
    """Size, colour, and the job in whose folder it was made. A picture of several colours is none of ours: -1."""
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        graph = json.loads(picture.info["prompt"])
        colors = picture.convert("RGB").getcolors(maxcolors=1)
        size = (picture.width, picture.height)
    red, green, blue = colors[0][1] if colors else (0, 0, -1)  # type: ignore[misc]  # an RGB picture has three
    return size, (red << 16) + (green << 8) + blue, str(graph["3"]["inputs"]["filename_prefix"]).partition("/")[0]
