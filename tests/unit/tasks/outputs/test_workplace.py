"""What lies on a machine on its way into a bucket: kept for jobs that wait for it, removed for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.clock import now_ms
from core.errors import LedgerUnavailable
from core.ledger.jobs import Jobs
from core.records.job import new_job_id
from core.settings import Settings
from tasks.outputs.workplace import SINCE, is_younger, open_workplace
from tests.ledger_moves import generated, succeeded
from tests.makers import BrokerlessRuntime


@pytest.fixture
def on_bucket(runtime: BrokerlessRuntime) -> Settings:
    return runtime.settings.model_copy(update={"storage_url": "s3://bucket/prefix"})


def folder(settings: Settings, name: str) -> Path:
    path = settings.data_dir / "outgoing" / name
    path.mkdir(parents=True)
    (path / "a.png").write_bytes(b"a")
    return path


def test_only_what_a_job_waits_for_stays(runtime: BrokerlessRuntime, on_bucket: Settings) -> None:
    waits = folder(on_bucket, generated(runtime.ledger).job_id)
    over, unknown = folder(on_bucket, succeeded(runtime.ledger).job_id), folder(on_bucket, new_job_id())
    other = folder(on_bucket, "of-somebody-else")

    open_workplace(on_bucket, runtime.ledger)

    assert [path.exists() for path in (waits, over, unknown, other)] == [True, False, False, True]


def test_all_of_it_stays_while_nobody_can_tell(
    runtime: BrokerlessRuntime, on_bucket: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> None:
        raise LedgerUnavailable("away")

    unknown = folder(on_bucket, new_job_id())
    monkeypatch.setattr(Jobs, "states", away)

    open_workplace(on_bucket, runtime.ledger)

    assert unknown.exists()


def test_a_disk_is_as_old_as_its_first_start(runtime: BrokerlessRuntime, on_bucket: Settings) -> None:
    workplace = on_bucket.data_dir / "outgoing"
    assert not is_younger(workplace, now_ms() - 1_000_000), "nobody knows"
    before_ms = now_ms() - 1_000
    open_workplace(on_bucket, runtime.ledger)
    assert is_younger(workplace, before_ms)
    assert not is_younger(workplace, now_ms() + 1_000)
    os.utime(workplace / SINCE, (1, 1))

    open_workplace(on_bucket, runtime.ledger)

    assert not is_younger(workplace, before_ms), "a restart changes nothing"


def test_a_directory_needs_none(runtime: BrokerlessRuntime) -> None:
    open_workplace(runtime.settings, runtime.ledger)

    assert not (runtime.settings.data_dir / "outgoing").exists()
