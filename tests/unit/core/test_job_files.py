"""Ids, and the layout of a job's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.job_files import (
    is_id,
    is_job_id,
    is_prefix,
    job_folder,
    job_named_in,
    job_path,
    leads_to_a_job,
    owner_of,
    staged_beside,
    staged_in_folder,
)
from core.records.job import new_job_id

JOB = "1b4e28ba-2fa1-4d2c-8a3f-0123456789ab"


@pytest.mark.parametrize("text", [JOB, "a", "A.b_c-9", "...", "x" * 128])
def test_ids(text: str) -> None:
    assert is_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a\\b", "a b", "a\n", "\0", "ä", "x" * 129])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ValueError, match="folder name"):
        job_folder(Path("/outputs"), text)


def test_only_what_we_give_is_a_job_id() -> None:
    assert is_job_id(new_job_id())
    assert not is_job_id(JOB.upper())
    assert not is_job_id(f"{JOB}/")
    assert not is_job_id("a-request-of-mine")


def test_a_jobs_files_lie_in_its_folder() -> None:
    assert job_path(JOB, "image.png") == f"{JOB}/image.png"
    assert job_path(JOB, "a", "b") == f"{JOB}/a/b"
    assert job_folder(Path("/outputs"), JOB) == Path("/outputs") / JOB
    assert owner_of(job_path(JOB, "a", "b")) == JOB
    assert owner_of("alone") == "alone"


@pytest.mark.parametrize("name", [staged_in_folder(JOB, "0-room.png"), f"3d/{staged_beside(JOB, '0-room.glb')}"])
def test_a_staged_input_leads_to_its_job(name: str) -> None:
    for spelling in (name, name.upper(), name.replace("/", "\\")):
        assert leads_to_a_job(spelling)
        assert job_named_in(spelling) == JOB


@pytest.mark.parametrize("name", ["room.png", f"rooms/x{JOB}/room.png", "fleet-room.png", ""])
def test_other_names_lead_to_no_job(name: str) -> None:
    assert not leads_to_a_job(name)
    assert job_named_in(name) is None


def test_the_folder_itself_leads_to_a_job_and_names_none() -> None:
    assert leads_to_a_job(JOB)
    assert job_named_in(JOB) is None
    assert job_named_in(f"{JOB}/") == JOB


def test_prefixes_are_told_by_the_end_of_their_name() -> None:
    assert is_prefix("filename_prefix")
    assert is_prefix("format.filename_prefix")
    assert not is_prefix("my_filename_prefix")
