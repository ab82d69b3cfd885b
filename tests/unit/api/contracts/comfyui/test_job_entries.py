"""Which outputs of a job ComfyUI's newer versions count, and which of them stands for the job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from api.contracts.comfyui.job_entries import job_entry, whole_job_entry
from core.ledger import Ledger
from core.records.job import Job
from core.records.output import Output
from tests.ledger_moves import claimed


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ledger.jobs.get(claimed(ledger).job_id)


def made(job: Job, name: str, **fields: Any) -> Output:
    given: dict[str, Any] = {"kind": "image", "content_type": "image/png", "storage_key": f"{job.id}/{name}"}
    return Output(id=name, job_id=job.id, node_id="2", name=name, **{**given, **fields})


def test_texts_are_shown_and_not_counted(job: Job) -> None:
    text = made(job, "t.txt", kind="text", content_type="text/plain", comfy_key="text")
    found = job_entry(replace(job, outputs=(text,)))
    assert (found["outputs_count"], found["previewable_outputs_count"]) == (0, 0)
    assert "preview_output" not in found


def test_what_was_saved_stands_for_the_job_before_what_was_only_shown(job: Job) -> None:
    note = made(job, "note.txt", kind="file", content_type="text/plain", comfy_key="files")
    shown, saved = made(job, "shown.png", folder="temp"), made(job, "saved.png")
    latent = made(job, "x.latent", kind="latent", comfy_key="latents", content_type="application/octet-stream")
    found = job_entry(replace(job, outputs=(note, shown, saved, latent)))
    assert (found["outputs_count"], found["previewable_outputs_count"]) == (4, 3)
    item = {"filename": "saved.png", "subfolder": job.id, "type": "output"}
    assert found["preview_output"] == {**item, "nodeId": "2", "mediaType": "images"}
    assert job_entry(replace(job, outputs=(note, latent)))["preview_output"]["filename"] == "note.txt"


def test_a_mesh_is_a_file_like_others(job: Job) -> None:
    mesh = made(job, "a.glb", kind="file", content_type="model/gltf-binary", comfy_key="result")
    ended = replace(job, outputs=(mesh,), status="succeeded")
    path = {"filename": f"{job.id}/a.glb", "type": "output", "subfolder": ""}
    assert job_entry(ended)["preview_output"] == {**path, "nodeId": "2", "mediaType": "3d"}
    whole = whole_job_entry(ended, None, lambda _output: None)
    assert whole["outputs"] == {"2": {"result": [{**path, "mediaType": "3d"}]}}


def test_a_film_of_another_pack_is_known_by_its_format(job: Job) -> None:
    film = made(job, "a.mp4", kind="video", content_type="video/mp4", comfy_key="gifs")
    preview = job_entry(replace(job, outputs=(film,)))["preview_output"]
    assert (preview["format"], preview["mediaType"]) == ("video/mp4", "gifs")
