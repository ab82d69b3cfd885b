"""The task that looks at a file in the bucket: what it meets is said in its line, and never fails it."""

from __future__ import annotations

import errno

import pytest

from core.errors import LedgerUnavailable
from core.storage.folders import BucketFault
from tasks import check_upload as module
from tasks.check_upload import check_upload
from tests.makers import BrokerlessRuntime
from tests.unit.tasks.task_calls import call


@pytest.mark.parametrize(
    ("outcome", "reported"),
    [
        (True, "upload u1"),
        (False, None),
        (LedgerUnavailable("the ledger is away"), "upload u1 waits: the ledger is away"),
        (BucketFault(errno.ENOSPC, "s3://b: the bucket is full"), "upload u1 waits: s3://b: the bucket is full"),
    ],
)
def test_what_became_of_it_is_reported(
    runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, outcome: bool | Exception, reported: str | None
) -> None:
    asked: list[str] = []

    def check(_ledger: object, _settings: object, upload_id: str) -> bool:
        asked.append(upload_id)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(module, "check", check)

    called = call(runtime, check_upload, "u1")

    assert asked == ["u1"]
    assert (called.result, called.reported) == ("u1", reported)
