"""Secrets: each opens for its own purpose, is wiped when that is served, and does not stay in SQLite's log."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from core.errors import SecretUnreadable
from core.ledger import Ledger
from core.ledger import secrets as module
from core.ledger.database.tables import deliveries, secrets
from core.ledger.secrets import ADDRESS, ANY, BUCKET, RUN, WEBHOOK
from core.ledger.webhooks.outbox import TryResult
from core.records.job import CANCELED, EXPIRED, FAILED, QUEUED, SUCCEEDED
from tests.ledger_moves import WEBHOOK as HOOK
from tests.ledger_moves import claimed, generated, set_columns, submit
from tests.makers import Stopwatch

ALL: dict[str, Any] = {
    "api_key_comfy_org": "partner",
    "s3": {"secret_access_key": "b"},
    "webhook_secret": ["w"],
    "webhook_headers": {"x": "h"},
    "webhook_query": "q=1",
}
OF_WEBHOOKS = {name: ALL[name] for name in ("webhook_secret", "webhook_headers")}


def left(ledger: Ledger, job_id: str) -> dict[str, bool]:
    """The purposes that a job has a row for, and whether anything is in it."""
    query = select(secrets.c.purpose, secrets.c.sealed).where(secrets.c.job_id == job_id)
    with ledger.database.read() as connection:
        return {row.purpose: row.sealed is not None for row in connection.execute(query)}


def seal_whole(ledger: Ledger, job_id: str, value: dict[str, Any]) -> None:
    """Keep secrets as versions did that sealed all of a job in one."""
    sealed = ledger.secrets._sealer.seal(value, bound_to=job_id)
    with ledger.database.write() as transaction:
        transaction.connection.execute(insert(secrets).values(job_id=job_id, purpose=ANY, sealed=sealed))


class TestOpening:
    def test_each_purpose_has_its_own(self, ledger: Ledger) -> None:
        job_id = submit(ledger, secrets=ALL).id
        assert ledger.secrets.open(job_id, RUN) == {"api_key_comfy_org": "partner"}
        assert ledger.secrets.open(job_id, BUCKET) == {"s3": ALL["s3"]}
        assert ledger.secrets.open(job_id, WEBHOOK) == OF_WEBHOOKS
        assert ledger.secrets.open(job_id, ADDRESS) == {"webhook_query": "q=1"}

    def test_of_many_jobs_for_several_purposes(self, ledger: Ledger) -> None:
        one, other, none = submit(ledger, secrets=ALL).id, submit(ledger, secrets={"s3": {}}).id, submit(ledger).id
        assert ledger.secrets.open_all([one, other, none], WEBHOOK, ADDRESS) == {
            one: {**OF_WEBHOOKS, "webhook_query": "q=1"},
            other: {},
            none: {},
        }

    def test_one_that_cannot_be_read_does_not_keep_the_others(self, ledger: Ledger) -> None:
        one, other = submit(ledger, secrets=ALL).id, submit(ledger, secrets=ALL).id
        with ledger.database.write() as transaction:
            its = update(secrets).where(secrets.c.job_id == one, secrets.c.purpose == RUN)
            transaction.connection.execute(its.values(sealed=None))
        found = ledger.secrets.open_all([one, other], RUN)
        assert isinstance(found[one], SecretUnreadable)
        assert found[other] == {"api_key_comfy_org": "partner"}
        with pytest.raises(SecretUnreadable, match=f"{one} was deleted after its use"):
            ledger.secrets.open(one, RUN)

    @pytest.mark.parametrize(("from_job", "from_purpose"), [("other", RUN), ("one", BUCKET)])
    def test_a_row_that_was_moved_does_not_open(self, ledger: Ledger, from_job: str, from_purpose: str) -> None:
        ids = {name: submit(ledger, secrets=ALL).id for name in ("one", "other")}
        source = select(secrets.c.sealed).where(secrets.c.job_id == ids[from_job], secrets.c.purpose == from_purpose)
        with ledger.database.write() as transaction:
            sealed = transaction.connection.execute(source).scalar_one()
            its = update(secrets).where(secrets.c.job_id == ids["one"], secrets.c.purpose == RUN)
            transaction.connection.execute(its.values(sealed=sealed))
        with pytest.raises(SecretUnreadable, match="can no longer read"):
            ledger.secrets.open(ids["one"], RUN)

    def test_rows_of_versions_that_kept_all_in_one(self, ledger: Ledger) -> None:
        job_id = submit(ledger).id
        seal_whole(ledger, job_id, {**ALL, "of a newer version": 1})
        assert ledger.secrets.open(job_id, WEBHOOK) == OF_WEBHOOKS
        assert ledger.secrets.open(job_id, RUN) == {"api_key_comfy_org": "partner"}


class TestRenewal:
    def test_in_place_of_those_for_the_same_purpose(self, ledger: Ledger) -> None:
        job_id, other = submit(ledger, secrets=ALL).id, submit(ledger, secrets=ALL).id
        ledger.secrets.renew(job_id, {"webhook_secret": ["new"], "s3": {"new": 1}})
        assert ledger.secrets.open(job_id, WEBHOOK) == {"webhook_secret": ["new"]}
        assert ledger.secrets.open(job_id, BUCKET) == {"s3": {"new": 1}}
        assert ledger.secrets.open(job_id, RUN) == {"api_key_comfy_org": "partner"}
        assert ledger.secrets.open(other, WEBHOOK) == OF_WEBHOOKS


class TestWiping:
    def test_the_partners_key_goes_when_the_gpu_is_done(self, ledger: Ledger) -> None:
        other = claimed(ledger, "gpu1@here", secrets=ALL)
        claim = generated(ledger, secrets=ALL)
        assert left(ledger, claim.job_id) == {BUCKET: True, WEBHOOK: True, ADDRESS: True}
        assert RUN in left(ledger, other.job_id)

    def test_the_end_leaves_what_webhooks_need(self, ledger: Ledger) -> None:
        job_id, other = submit(ledger, secrets=ALL).id, submit(ledger, secrets=ALL).id
        seal_whole(ledger, job_id, ALL)
        ledger.jobs.cancel(job_id)
        assert left(ledger, job_id) == {WEBHOOK: True, ADDRESS: True}
        assert set(left(ledger, other)) == {RUN, BUCKET, WEBHOOK, ADDRESS}

    @pytest.mark.parametrize("status", [SUCCEEDED, FAILED, CANCELED, EXPIRED])
    def test_what_signs_goes_when_no_webhook_is_open(self, ledger: Ledger, status: str) -> None:
        job_id = submit(ledger, secrets=ALL).id
        set_columns(ledger, job_id, status=status)
        assert ledger.secrets.wipe() == 1
        assert left(ledger, job_id) == {RUN: True, BUCKET: True, WEBHOOK: False, ADDRESS: True}
        assert ledger.secrets.wipe() == 0

    def test_not_while_the_job_goes_on(self, ledger: Ledger) -> None:
        job = submit(ledger, secrets=ALL)
        ended = submit(ledger, secrets=ALL)
        set_columns(ledger, ended.id, status=FAILED)
        assert ledger.secrets.wipe() == 1
        assert job.status == QUEUED
        assert left(ledger, job.id)[WEBHOOK]

    def test_not_while_somebody_is_to_be_told(self, ledger: Ledger) -> None:
        job_id = submit(ledger, secrets=ALL, webhook=HOOK).id
        ledger.jobs.cancel(job_id)
        assert ledger.secrets.wipe() == 0
        assert left(ledger, job_id)[WEBHOOK]
        (post,) = ledger.outbox.take([due.id for due in ledger.outbox.due()])
        ledger.outbox.record([(post, TryResult(at_ms=1, duration_ms=1))])
        assert ledger.secrets.wipe() == 1
        with pytest.raises(SecretUnreadable):
            ledger.secrets.open(job_id, WEBHOOK)

    def test_anothers_open_webhook_keeps_nothing(self, ledger: Ledger) -> None:
        ledger.jobs.cancel(submit(ledger, webhook=HOOK).id)
        job_id = ledger.jobs.cancel(submit(ledger, secrets=ALL).id).id
        assert ledger.secrets.wipe() == 1
        assert not left(ledger, job_id)[WEBHOOK]
        with ledger.database.read() as connection:
            assert len(connection.execute(select(deliveries.c.id)).all()) == 1


class TestLog:
    """SQLite's log keeps what was overwritten, until it is emptied."""

    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(module, "time", watch)
        return watch

    def test_it_is_emptied_now_and_then(
        self, ledger: Ledger, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        emptied: list[tuple[float, int]] = []
        # Somebody reads all the time at the second attempt.
        answers = itertools.chain([True, False], itertools.repeat(True))

        def empty_log(*, timeout_ms: int) -> bool:
            emptied.append((watch.now_s, timeout_ms))
            return next(answers)

        monkeypatch.setattr(ledger.database, "empty_log", empty_log)
        for at_s in (1000.0, 1019.9, 1020.0, 1020.1, 1040.0, 1040.2):
            watch.now_s = at_s
            ledger.secrets.wipe()
        assert emptied == [(1000.0, 100), (1020.0, 100), (1020.1, 100), (1040.2, 100)]

    def test_there_is_none_elsewhere(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger.database, "is_sqlite", False)
        monkeypatch.setattr(ledger.database, "empty_log", lambda **_options: pytest.fail("there is no log"))
        assert ledger.secrets.wipe() == 0
