"""What is published when a job has moved, for each status it can come into."""

from __future__ import annotations

from typing import Any

import pytest

from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    EXPIRED,
    FAILED,
    QUEUED,
    RUNNING,
    STATUSES,
    SUCCEEDED,
    Job,
    Status,
)
from core.records.webhook_target import WebhookTarget
from tasks.messaging.follow_up import FollowUp, Moved, follow_up, host_of, publish_follow_up
from tests.makers import job_record


class Sent:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[tuple[Any, ...]] = []

    def turn(self, job_id: str) -> bool:
        self.messages.append(("turn", job_id))
        return True

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        self.messages.append(("interrupt", job_id, attempt, instance))

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        self.messages.append(("store", job_id, attempt, host))
        return True

    def notify(self, job_id: str) -> bool:
        self.messages.append(("notify", job_id))
        return True


def job_in(status: Status, **fields: Any) -> Job:
    return job_record(status, id="j", **{"attempt": 2, "instance": "gpu0@here", **fields})


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("has_webhook", [True, False])
def test_each_status_has_its_message(status: str, has_webhook: bool) -> None:
    end = FollowUp.NOTIFY if has_webhook else None
    expected = {
        QUEUED: FollowUp.TURN,
        RUNNING: None,
        CANCELING: FollowUp.INTERRUPT,
        DELIVERING: FollowUp.STORE,
        SUCCEEDED: end,
        FAILED: end,
        CANCELED: end,
        EXPIRED: end,
    }
    assert follow_up(status, has_webhook=has_webhook) is expected[status]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (QUEUED, ("turn", "j")),
        (CANCELING, ("interrupt", "j", 2, "gpu0@here")),
        (DELIVERING, ("store", "j", 2, "here")),
        (FAILED, ("notify", "j")),
    ],
)
def test_a_job_that_moved_is_followed_up(status: Status, message: tuple[Any, ...]) -> None:
    sent = Sent()
    publish_follow_up(sent, Moved.of(job_in(status, webhook=WebhookTarget(url="https://example.com"))))
    assert sent.messages == [message]


def test_nothing_is_published_for_an_end_that_nobody_wants_to_know_of() -> None:
    sent = Sent()
    publish_follow_up(sent, Moved.of(job_in(SUCCEEDED)))
    assert sent.messages == []


def test_nothing_is_interrupted_where_no_instance_has_it() -> None:
    sent = Sent()
    publish_follow_up(sent, Moved.of(job_in(CANCELING, instance=None)))
    assert sent.messages == []


def test_where_nobody_looked_for_a_webhook_there_may_be_one() -> None:
    sent = Sent()
    publish_follow_up(sent, Moved(job_id="j", status=EXPIRED))
    assert sent.messages == [("notify", "j")]


def test_the_host_is_read_from_an_instances_name() -> None:
    assert host_of("gpu0@here") == "here"
    assert host_of(None) == host_of("gpu0") == ""
