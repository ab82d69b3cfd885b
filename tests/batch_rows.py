"""Batches for tests of what comes of them: their jobs, put into the ledger as the creation of a batch does."""

from __future__ import annotations

import io
import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from core.ledger import Ledger
from core.records.job import Job
from core.records.job_error import JobError
from tests.integration.api_fixtures import Api
from tests.ledger_moves import accepted


def crossed(**over: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of values, the last name varying fastest."""
    return [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]


def put_batch(ledger: Ledger, over: Sequence[Mapping[str, Any]], **fields: Any) -> tuple[str, list[Job]]:
    """Record a batch with a job for each set of varied values; returns its id and the jobs."""
    batch = str(uuid.uuid4())
    jobs = [
        ledger.jobs.submit(accepted(batch=batch, batch_index=index, varied=dict(varied), **fields))
        for index, varied in enumerate(over)
    ]
    return batch, jobs


def fail(api: Api, job: Job, message: str, code: str = "node_execution_error") -> None:
    """Have a job run and fail."""
    api.ledger.claims.fail(api.worker.claim(job.id), JobError(code=code, message=message))


def picture(text: str, colour: tuple[int, int, int], size: tuple[int, int] = (320, 240), kind: str = "PNG") -> bytes:
    """A picture that says which it is."""
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).ellipse(
        (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=(250, 240, 200)
    )
    ImageDraw.Draw(image).text((10, 10), text, fill=(255, 255, 255), font_size=28)
    target = io.BytesIO()
    image.save(target, kind)
    return target.getvalue()
