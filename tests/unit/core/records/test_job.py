"""Statuses and their order, and the names of jobs and prompts."""

from __future__ import annotations

import uuid

import pytest

from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    FAILED,
    LEASED,
    QUEUED,
    RUNNING,
    STATUSES,
    SUCCEEDED,
    TERMINAL,
    TRANSITIONS,
    Status,
    new_job_id,
    predecessors,
    prompt_id_of,
)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_terminal_status_is_final(status: Status) -> None:
    assert TRANSITIONS[status] == frozenset()
    assert all(status not in predecessors(other) for other in STATUSES)


def test_every_status_is_known_and_can_be_reached() -> None:
    assert {after for all_after in TRANSITIONS.values() for after in all_after} | {QUEUED} == set(STATUSES)
    assert set(STATUSES) > TERMINAL | LEASED


@pytest.mark.parametrize("status", [status for status in STATUSES if status not in TERMINAL])
def test_every_job_can_end_canceled_and_failed(status: Status) -> None:
    assert {CANCELED, FAILED} <= TRANSITIONS[status]


def test_a_canceled_job_never_comes_back() -> None:
    assert TRANSITIONS[CANCELING] <= TERMINAL
    assert SUCCEEDED not in TRANSITIONS[CANCELING]


@pytest.mark.parametrize(
    ("status", "before"),
    [
        (RUNNING, (QUEUED,)),
        (QUEUED, (RUNNING, DELIVERING)),
        (CANCELING, (RUNNING,)),
        (DELIVERING, (RUNNING,)),
        (SUCCEEDED, (DELIVERING,)),
        (CANCELED, (QUEUED, RUNNING, CANCELING, DELIVERING)),
    ],
)
def test_what_comes_before(status: Status, before: tuple[Status, ...]) -> None:
    assert predecessors(status) == before


def test_job_ids_are_random_canonical_uuids() -> None:
    ids = {new_job_id() for _ in range(100)}

    assert len(ids) == 100
    assert all(str(uuid.UUID(job_id)) == job_id and uuid.UUID(job_id).version == 4 for job_id in ids)


def test_a_prompt_id_is_canonical_and_always_the_same() -> None:
    job_id = "2f1b8a4e-9c1d-4b7e-8a55-0d9a6c1f7e10"

    # Written down once: a worker of the next release must find the prompts of this one.
    assert prompt_id_of(job_id, 1) == "9662a984-bc06-505b-b25f-00d795993540"
    assert prompt_id_of(job_id, 1) != prompt_id_of(job_id, 2)
    assert prompt_id_of(job_id, 1) != prompt_id_of(new_job_id(), 1)
