"""What a job tells of what went wrong: written down, and read of other versions."""

from __future__ import annotations

import pytest

from core.records.job_error import JobError, JobWarning, Loss


@pytest.mark.parametrize(
    "record",
    [
        JobError(code="timeout", message="late", node_id="3", class_type="KSampler", traceback="line 1"),
        Loss(attempt=1, code="stuck", instance="gpu0@here", gpu="L4", at_ms=5),
        JobWarning(message="no faces found", node_id="3", class_type="SaveImage"),
    ],
)
def test_a_record_is_read_as_it_was_written_whatever_a_newer_version_adds(record: JobError | Loss | JobWarning) -> None:
    assert type(record).from_json({**record.to_json(), "severity": 7}) == record


def test_what_an_earlier_version_left_out_is_unknown() -> None:
    assert JobError.from_json({"code": "queue_timeout", "message": "late"}).traceback is None
    assert JobError.from_json({}) == JobError(code="failed", message="The job failed.")
    assert Loss.from_json({"code": "stuck"}).gpu is None


def test_the_place_stands_behind_a_message() -> None:
    assert JobError(node_id="3", class_type="KSampler").place == " (node 3, KSampler)"
    assert JobError().place == ""
