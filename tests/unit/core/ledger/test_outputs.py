"""Files on their way into storage: what is still to be stored, the end it leads to, and turns that come to none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from core.errors import NotFound, StaleAttempt, UploadFailed
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import assets
from core.records.job import DELIVERING, FAILED, QUEUED, SUCCEEDED
from core.records.output import BucketResult, OutputFile
from core.records.output_options import OutputOptions
from tests.ledger_moves import ERROR, claimed, generated, produced, set_columns, stored, submit, succeeded
from tests.makers import StoppedClock

#: A job that delivers for so long is given another turn.
DELIVERING_MS = 15_000


def pending(ledger: Ledger, claim: Claim) -> list[OutputFile]:
    return ledger.outputs.pending(claim.job_id, claim.attempt).files


def end(ledger: Ledger, claim: Claim, **stored_fields: Any) -> list[OutputFile]:
    """Store all files of a job."""
    files = [replace(stored(file), **stored_fields) for file in pending(ledger, claim)]
    ledger.outputs.succeed(claim.job_id, claim.attempt, files)
    return files


def again(ledger: Ledger, claim: Claim) -> Claim:
    """A later attempt at a job, as far as one that delivers."""
    set_columns(ledger, claim.job_id, attempt=claim.attempt + 1)
    return replace(claim, attempt=claim.attempt + 1)


def set_assets(ledger: Ledger, job_id: str, **values: Any) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(assets).where(assets.c.job_id == job_id).values(**values))


class TestPending:
    def test_in_the_order_in_which_they_were_made(self, ledger: Ledger, clock: StoppedClock) -> None:
        strip = OutputOptions(strip_metadata=True)
        claim = claimed(ledger, output_options=strip)
        generated(ledger, instance="gpu1@here", files=1)
        files = [produced(claim, number) for number in (2, 0, 1)]
        ledger.claims.generated(claim, files, outputs_reused=False)
        found = ledger.outputs.pending(claim.job_id, claim.attempt)
        assert [file.id for file in found.files] == [file.id for file in files]
        assert [file.ordinal for file in found.files] == [1, 2, 3]
        assert (found.output_options, found.generated_at_ms) == (strip, clock.now_ms)

    def test_they_are_kept_as_they_are_where_nothing_is_said(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=0)
        assert ledger.outputs.pending(claim.job_id, claim.attempt).output_options == OutputOptions()

    def test_what_is_stored_is_done(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=1)
        set_assets(ledger, claim.job_id, storage_key="k")
        assert pending(ledger, claim) == []

    def test_files_of_another_attempt_are_none_of_this_one(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=1)
        assert pending(ledger, again(ledger, claim)) == []
        with pytest.raises(StaleAttempt, match="nothing left"):
            pending(ledger, claim)

    def test_a_job_that_runs_has_none(self, ledger: Ledger) -> None:
        with pytest.raises(StaleAttempt):
            pending(ledger, claimed(ledger))


class TestSuccess:
    def test_each_file_is_an_event_before_the_end(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = generated(ledger, files=2)
        clock.pass_ms(3)
        files = [stored(file) for file in pending(ledger, claim)]
        job = ledger.outputs.succeed(claim.job_id, claim.attempt, files)
        assert (job.status, job.last_seq, job.updated_at_ms) == (SUCCEEDED, 6, clock.now_ms)
        told = [(event.seq, event.type, event.data) for event in ledger.jobs.events(claim.job_id, after_seq=3)]
        assert told == [
            (4, "output", {"asset_id": files[0].id}),
            (5, "output", {"asset_id": files[1].id}),
            (6, "status", {"status": SUCCEEDED}),
        ]

    def test_what_storage_says_of_a_file(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=2)
        known: dict[str, Any] = {"size_bytes": 77, "name": "x.webp", "content_type": "image/webp", "hash": "h"}
        said: dict[str, Any] = {"bucket_result": BucketResult(url="u"), "conversion_error": "damaged"}
        files = pending(ledger, claim)
        first = replace(stored(files[0]), **known, **said)
        ledger.outputs.succeed(claim.job_id, claim.attempt, [first, stored(files[1])])
        one, other = ledger.jobs.get(claim.job_id).outputs
        assert {name: getattr(one, name) for name in known} == known
        assert {name: getattr(one, name) for name in said} == said
        assert one.storage_key == first.storage_key
        assert (other.size_bytes, other.name, other.bucket_result) == (10, "out_00001_.png", None)

    def test_what_nobody_can_find(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=2)
        kept, lost = pending(ledger, claim)
        ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(kept)], {lost.id: "gone"})
        job = ledger.jobs.get(claim.job_id)
        assert [output.id for output in job.outputs] == [kept.id]
        assert [(output.id, output.missing_reason) for output in job.missing_outputs] == [(lost.id, "gone")]
        assert job.last_seq == 5

    def test_nothing_is_written_for_a_stale_attempt(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=1)
        files = [stored(file) for file in pending(ledger, claim)]
        again(ledger, claim)
        with pytest.raises(StaleAttempt, match="somebody else"):
            ledger.outputs.succeed(claim.job_id, claim.attempt, files)
        job = ledger.jobs.get(claim.job_id)
        assert (job.status, job.last_seq, job.outputs) == (DELIVERING, 3, ())

    def test_nor_for_a_job_that_was_cancelled(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=0)
        before = ledger.jobs.cancel(claim.job_id)
        with pytest.raises(StaleAttempt):
            ledger.outputs.succeed(claim.job_id, claim.attempt, [])
        assert ledger.jobs.get(claim.job_id) == before


class TestLosses:
    def test_each_is_counted(self, ledger: Ledger) -> None:
        claim, other = generated(ledger), generated(ledger, instance="gpu1@here")
        assert ledger.outputs.losses(claim.job_id) == 0
        assert [ledger.outputs.count_loss(claim.job_id, claim.attempt) for _ in range(2)] == [1, 2]
        assert (ledger.outputs.losses(claim.job_id), ledger.outputs.losses(other.job_id)) == (2, 0)

    def test_one_is_taken_back(self, ledger: Ledger) -> None:
        claim = generated(ledger)
        for _ in range(3):
            ledger.outputs.count_loss(claim.job_id, claim.attempt)
        ledger.outputs.forgive_loss(claim.job_id, claim.attempt)
        assert ledger.outputs.losses(claim.job_id) == 2

    def test_not_of_a_stale_attempt(self, ledger: Ledger) -> None:
        claim = generated(ledger)
        newer = again(ledger, claim)
        ledger.outputs.count_loss(newer.job_id, newer.attempt)
        with pytest.raises(StaleAttempt, match="nothing left"):
            ledger.outputs.count_loss(claim.job_id, claim.attempt)
        ledger.outputs.forgive_loss(claim.job_id, claim.attempt)
        assert ledger.outputs.losses(claim.job_id) == 1

    def test_of_a_job_that_is_gone(self, ledger: Ledger) -> None:
        assert ledger.outputs.losses("gone") == 0


class TestUnhappyEnds:
    def test_it_fails(self, ledger: Ledger) -> None:
        claim = generated(ledger)
        assert ledger.outputs.fail(claim.job_id, claim.attempt, ERROR) is True
        job = ledger.jobs.get(claim.job_id)
        assert (job.status, job.error) == (FAILED, ERROR)
        assert ledger.outputs.fail(claim.job_id, claim.attempt, ERROR) is False

    def test_not_for_a_stale_attempt_or_while_it_runs(self, ledger: Ledger) -> None:
        claim, runs = generated(ledger), claimed(ledger, "gpu1@here")
        again(ledger, claim)
        for held in (claim, runs):
            assert not ledger.outputs.fail(held.job_id, held.attempt, ERROR)
            assert not ledger.jobs.get(held.job_id).is_terminal

    @pytest.mark.parametrize(("instance", "where"), [("gpu0@there", " (there)."), (None, ".")])
    def test_nobody_came_for_its_files(
        self, ledger: Ledger, clock: StoppedClock, instance: str | None, where: str
    ) -> None:
        claim = generated(ledger)
        set_columns(ledger, claim.job_id, instance=instance)
        clock.pass_ms(2500)
        assert ledger.outputs.abandon(after_s=2.5) == []
        younger = generated(ledger, instance="gpu1@here")
        clock.pass_ms(1)
        assert ledger.outputs.abandon(after_s=2.5) == [claim.job_id]
        job = ledger.jobs.get(claim.job_id)
        assert job.status == FAILED
        assert job.error is not None
        assert job.error.code == UploadFailed.code
        assert job.error.message == f"Its outputs could not be stored: nobody came for them where they lie{where}"
        assert ledger.jobs.get(younger.job_id).status == DELIVERING

    def test_one_that_has_ended_is_not_abandoned(self, ledger: Ledger, clock: StoppedClock) -> None:
        succeeded(ledger)
        clock.pass_ms(9000)
        assert ledger.outputs.abandon(after_s=2.5) == []


class TestForgotten:
    def test_each_once_in_a_while(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = generated(ledger)
        submit(ledger)
        clock.pass_ms(DELIVERING_MS)
        assert ledger.outputs.overdue() == []
        clock.pass_ms(1)
        assert ledger.outputs.overdue() == [(claim.job_id, 1, "gpu0@here")]
        assert ledger.outputs.overdue() == []
        assert ledger.jobs.get(claim.job_id).updated_at_ms == clock.now_ms

    def test_where_an_instance_left_them(self, ledger: Ledger) -> None:
        claim = generated(ledger)
        claimed(ledger)
        generated(ledger, instance="gpu1@here")
        assert ledger.outputs.unstored("gpu0@here") == [claim.job_id]


class TestLookUp:
    @pytest.mark.parametrize("is_expired", [False, True])
    def test_a_stored_one(self, ledger: Ledger, is_expired: bool) -> None:
        claim = generated(ledger, files=2)
        files = end(ledger, claim)
        set_columns(ledger, claim.job_id, files_removed=is_expired)
        for file in files:
            found = ledger.outputs.asset(file.id)
            assert (found.id, found.storage_key, found.is_expired) == (file.id, f"k/{file.id}", is_expired)

    def test_one_that_is_not_stored_is_not_there_yet(self, ledger: Ledger) -> None:
        (file,) = pending(ledger, generated(ledger))
        for asset_id in (file.id, "gone"):
            with pytest.raises(NotFound, match=f"no asset {asset_id}"):
                ledger.outputs.asset(asset_id)

    @pytest.mark.parametrize("is_expired", [False, True])
    def test_by_its_place(self, ledger: Ledger, is_expired: bool) -> None:
        claim = generated(ledger, files=2)
        files = pending(ledger, claim)
        placed = [replace(stored(file), storage_key=f"{claim.job_id}/{file.name}") for file in files]
        ledger.outputs.succeed(claim.job_id, claim.attempt, placed)
        set_columns(ledger, claim.job_id, files_removed=is_expired)
        found = ledger.outputs.output_at(f"{claim.job_id}/{files[1].name}")
        assert (found.id, found.is_expired) == (files[1].id, is_expired)
        with pytest.raises(NotFound, match="no output"):
            ledger.outputs.output_at(f"{claim.job_id}/x")

    def test_names_within_a_place_are_the_jobs_own(self, ledger: Ledger) -> None:
        claim, other = generated(ledger), generated(ledger, instance="gpu1@here")
        end(ledger, other, storage_key=f"{claim.job_id}/x")
        with pytest.raises(NotFound):
            ledger.outputs.output_at(f"{claim.job_id}/x")

    def test_two_at_one_place_are_no_stumbling_block(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=2)
        ids = {file.id for file in end(ledger, claim, storage_key=f"{claim.job_id}/x")}
        assert ledger.outputs.output_at(f"{claim.job_id}/x").id in ids


def test_an_asset_that_was_given_back_is_nobodys(ledger: Ledger) -> None:
    claim = claimed(ledger)
    with ledger.database.write() as transaction:
        row = {"id": "a", "job_id": claim.job_id, "attempt": 1, "ordinal": 0, "node_id": "1", "name": "n"}
        row |= {"type": "image", "content_type": "t", "comfy_type": "output", "comfy_key": "images", "subfolder": ""}
        transaction.connection.execute(insert(assets).values(**row, source={}, size_bytes=0, created_at_ms=1))
    ledger.requeue.release(claim, reason="r")
    assert ledger.jobs.get(claim.job_id).status == QUEUED
    with ledger.database.read() as connection:
        assert connection.execute(select(assets.c.id)).all() == []
