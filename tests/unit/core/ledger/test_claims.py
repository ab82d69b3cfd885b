"""Claims: what a worker takes, how long it is his, and what his writes change."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from core.errors import StaleAttempt
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import assets, instances, job_errors, jobs
from core.ledger.durations import DEFAULT_S
from core.ledger.instances import UNHEALTHY
from core.records.job import CANCELED, CANCELING, DELIVERING, FAILED, QUEUED, RUNNING, InputRef, prompt_id_of
from core.records.job_error import JobWarning
from core.records.progress import Progress
from core.settings import Settings
from tests.ledger_moves import ERROR, WEBHOOK, check_log, claimed, produced, secrets_of, submit
from tests.makers import NAME, WORKER, StoppedClock, come_up

NAMED: dict[str, Any] = {"shape": "s" * 8, "template": "portrait", "timeout_s": 7.5}
INPUTS = (InputRef(name="a.png", key="k/a"),)


def column(ledger: Ledger, job_id: str, name: str) -> object:
    """One column of a job's row."""
    with ledger.database.read() as connection:
        return connection.execute(select(jobs.c[name]).where(jobs.c.id == job_id)).scalar_one()


def free_at_ms(ledger: Ledger) -> object:
    """When the instance is expected to be free."""
    with ledger.database.read() as connection:
        return connection.execute(select(instances.c.free_at_ms).where(instances.c.name == NAME)).scalar_one()


def test_a_claim_holds_all_that_the_run_needs(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger, device="RTX")
    graph = '{"7":{}}'
    secrets = {"api_key_comfy_org": "key"}
    told: dict[str, Any] = {"webhook": WEBHOOK, "extra_pnginfo": {"workflow": {}}, "secrets": secrets}
    claim = claimed(ledger, graph_text=graph, nodes_total=3, inputs=INPUTS, **told, **NAMED)
    assert claim == Claim(
        job_id=claim.job_id,
        attempt=1,
        graph=graph,
        nodes_total=3,
        has_webhook=True,
        has_secrets=True,
        lost_code=None,
        inputs=INPUTS,
        extra_pnginfo='{"workflow":{}}',
        run_s=DEFAULT_S,
        created_at_ms=clock.now_ms,
        **NAMED,
    )
    assert claim.prompt_id == prompt_id_of(claim.job_id, 1)
    job = ledger.jobs.get(claim.job_id)
    assert (job.status, job.attempt, job.instance, job.gpu) == (RUNNING, 1, NAME, "RTX")
    assert job.started_at_ms == clock.now_ms
    event = ledger.jobs.events(job.id)[-1]
    assert event.data == {"status": RUNNING, "instance": NAME}


def test_a_plain_job_comes_without(ledger: Ledger) -> None:
    claim = claimed(ledger)
    assert (claim.has_webhook, claim.has_secrets, claim.inputs, claim.timeout_s) == (False, False, (), None)
    assert not column(ledger, claim.job_id, "on_deck")


def test_secrets_for_others_are_none_of_the_run(ledger: Ledger) -> None:
    assert not claimed(ledger, secrets={"webhook_secret": "whsec_x"}, webhook=WEBHOOK).has_secrets


def test_the_next_attempt_says_what_the_last_was_lost_to(ledger: Ledger) -> None:
    first = claimed(ledger)
    ledger.requeue.release(first, reason="gone", code="stuck")
    second = ledger.claims.claim("gpu1@here")
    assert second is not None
    assert (second.attempt, second.lost_code) == (2, "stuck")
    assert second.prompt_id != first.prompt_id


def test_nothing_is_claimed_where_nothing_waits(ledger: Ledger) -> None:
    assert ledger.claims.claim(NAME) is None
    assert ledger.claims.claim(NAME, named="nobody") is None
    assert not ledger.claims.anything_waits()
    submit(ledger)
    assert ledger.claims.anything_waits()


def test_a_worker_that_lost_the_name_claims_nothing(ledger: Ledger) -> None:
    come_up(ledger)
    job = submit(ledger)
    assert ledger.claims.claim(NAME, worker="another") is None
    assert ledger.claims.claim(NAME, named=job.id, worker="another") is None
    assert ledger.claims.claim(NAME, worker=WORKER) is not None


def test_an_instance_that_is_not_healthy_claims_nothing(ledger: Ledger) -> None:
    come_up(ledger)
    ledger.instances.down(NAME, worker=WORKER, state=UNHEALTHY, reason="x")
    submit(ledger)
    assert ledger.claims.claim(NAME) is None


def test_what_is_claimed_ahead_is_on_deck_until_it_begins(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claimed(ledger)
    waiting = submit(ledger)
    clock.pass_ms(5)
    ahead = ledger.claims.claim(NAME, ahead=True)
    assert ahead is not None
    assert ahead.job_id == waiting.id
    assert column(ledger, waiting.id, "on_deck")
    clock.pass_ms(700)
    ledger.claims.begun(ahead)
    assert not column(ledger, waiting.id, "on_deck")
    assert ledger.jobs.get(waiting.id).started_at_ms == clock.now_ms


def test_a_busy_instance_takes_nothing_that_an_idle_one_would(ledger: Ledger) -> None:
    come_up(ledger)
    claimed(ledger)
    come_up(ledger, "gpu1@here")
    submit(ledger)
    assert ledger.claims.claim(NAME, ahead=True) is None
    submit(ledger)
    assert ledger.claims.claim(NAME, ahead=True) is not None


class TestRenewal:
    def test_a_lease_lasts_from_its_last_renewal(
        self, ledger: Ledger, clock: StoppedClock, sqlite_settings: Settings
    ) -> None:
        lease_ms = int(sqlite_settings.lease_s * 1000)
        claim = claimed(ledger)
        assert column(ledger, claim.job_id, "lease_until_ms") == clock.now_ms + lease_ms
        clock.pass_ms(lease_ms)
        assert ledger.claims.renew([claim]) == {claim.job_id: RUNNING}
        assert column(ledger, claim.job_id, "lease_until_ms") == clock.now_ms + lease_ms
        clock.pass_ms(lease_ms)
        assert ledger.requeue.take_back_lapsed() == {}, "it has not lapsed at its last moment"
        clock.pass_ms(1)
        assert ledger.requeue.take_back_lapsed() == {claim.job_id: QUEUED}

    def test_what_is_overdue_is_expected_to_take_as_long_again(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claim = claimed(ledger)
        planned_ms = int((claim.load_s + claim.run_s) * 1000)
        began_ms = clock.now_ms
        clock.pass_ms(planned_ms)
        ledger.claims.renew([claim])
        assert free_at_ms(ledger) == began_ms + planned_ms, "it is in time so far"
        clock.pass_ms(7_000)
        ledger.claims.renew([claim])
        assert free_at_ms(ledger) == clock.now_ms + 7_000
        clock.pass_ms(1_000)
        ledger.claims.renew([claim])
        assert free_at_ms(ledger) == clock.now_ms + 8_000

    def test_on_deck_nothing_is_overdue(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claimed(ledger)
        claim = ledger.claims.claim(NAME, named=submit(ledger).id, ahead=True)
        assert claim is not None
        planned_ms = free_at_ms(ledger)
        clock.pass_ms(1_000_000)
        ledger.claims.renew([claim])
        assert free_at_ms(ledger) == planned_ms

    def test_it_tells_what_became_of_each(self, ledger: Ledger) -> None:
        running, canceling, lost = (claimed(ledger, f"gpu{number}@here") for number in range(3))
        ledger.jobs.cancel(canceling.job_id)
        ledger.requeue.release(lost, reason="taken")
        assert ledger.claims.renew([lost, running, canceling]) == {
            running.job_id: RUNNING,
            canceling.job_id: CANCELING,
        }


class TestProgress:
    def test_only_the_present_attempt_tells(self, ledger: Ledger) -> None:
        old = claimed(ledger)
        ledger.requeue.release(old, reason="gone")
        ledger.claims.progress(old, Progress(value=0.9))
        assert ledger.jobs.get(old.job_id).progress is None
        new = ledger.claims.claim("gpu1@here")
        assert new is not None
        ledger.claims.progress(old, Progress(value=0.9))
        ledger.claims.progress(new, Progress(value=0.1))
        assert ledger.jobs.get(new.job_id).progress == Progress(value=0.1)

    def test_a_webhook_hears_of_it_while_the_job_runs(self, ledger: Ledger) -> None:
        wants = replace(WEBHOOK, events=("job.progress",))
        claim = claimed(ledger, webhook=wants)
        ledger.claims.progress(claim, Progress(value=0.5))
        assert ledger.deliveries.open_count(claim.job_id) == 1
        other = claimed(ledger, "gpu1@here", webhook=wants)
        ledger.jobs.cancel(other.job_id)
        ledger.claims.progress(other, Progress(value=0.5))
        assert ledger.deliveries.open_count(other.job_id) == 0

    def test_whoever_watches_is_woken(self, sqlite_settings: Settings) -> None:
        changes: list[str] = []
        ledger = Ledger(sqlite_settings, on_change=lambda change: changes.append(change.job_id))
        claim = claimed(ledger)
        changes.clear()
        ledger.claims.progress(claim, Progress(value=0.5))
        assert changes == [claim.job_id]
        ledger.close()


class TestGenerated:
    def test_files_are_recorded_in_their_order(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger)
        files = [produced(claim, number) for number in range(3)]
        clock.pass_ms(9)
        ledger.claims.generated(claim, files, outputs_reused=True, warnings=[JobWarning(message="m")])
        job = ledger.jobs.get(claim.job_id)
        assert (job.status, job.outputs_reused, job.warnings) == (DELIVERING, True, (JobWarning(message="m"),))
        assert job.generated_at_ms == clock.now_ms
        assert column(ledger, job.id, "lease_until_ms") is None
        with ledger.database.read() as connection:
            rows = connection.execute(select(assets).order_by(assets.c.ordinal)).mappings().all()
        assert [row["ordinal"] for row in rows] == [0, 1, 2]
        first = dict(rows[0])
        assert first == {
            "id": files[0].id,
            "job_id": job.id,
            "attempt": 1,
            "ordinal": 0,
            "node_id": "9",
            "name": "out_00000_.png",
            "type": "image",
            "content_type": "image/png",
            "comfy_type": "output",
            "comfy_key": "images",
            "subfolder": "",
            "source": {"path": "/gpu0/out_00000_.png"},
            "size_bytes": 0,
            "hash": None,
            "storage_key": None,
            "upload": None,
            "created_at_ms": clock.now_ms,
        }
        assert check_log(ledger, job.id) == [QUEUED, RUNNING, DELIVERING]

    def test_without_files_and_warnings(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.claims.generated(claim, [], outputs_reused=False)
        job = ledger.jobs.get(claim.job_id)
        assert (job.status, job.outputs_reused, job.warnings) == (DELIVERING, False, ())

    def test_what_the_run_alone_needed_is_wiped(self, ledger: Ledger) -> None:
        secrets = {"api_key_comfy_org": "key", "webhook_secret": "whsec_x"}
        claim = claimed(ledger, secrets=secrets, webhook=WEBHOOK)
        ledger.claims.generated(claim, [], outputs_reused=False)
        assert secrets_of(ledger, claim.job_id) == {"webhook_secret": "whsec_x"}

    @pytest.mark.parametrize("end", ["cancel", "release"])
    def test_what_was_overtaken_is_dropped(self, ledger: Ledger, end: str) -> None:
        claim = claimed(ledger)
        if end == "cancel":
            ledger.jobs.cancel(claim.job_id)
        else:
            ledger.requeue.release(claim, reason="taken")
        with pytest.raises(StaleAttempt, match=f"{claim.job_id} attempt 1"):
            ledger.claims.generated(claim, [produced(claim)], outputs_reused=False)
        with ledger.database.read() as connection:
            assert connection.execute(select(assets.c.id)).all() == []


class TestFailure:
    def test_the_whole_error_is_kept_beside_the_short_one(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        whole = replace(ERROR, message="boom" * 1000)
        assert ledger.claims.fail(claim, ERROR, whole=whole)
        job = ledger.jobs.get(claim.job_id)
        assert (job.status, job.error) == (FAILED, ERROR)
        with ledger.database.read() as connection:
            packed = connection.execute(select(job_errors.c.error)).scalar_one()
        assert json.loads(zlib.decompress(packed)) == whole.to_json()

    def test_a_short_one_stands_alone(self, ledger: Ledger) -> None:
        assert ledger.claims.fail(claimed(ledger), ERROR)
        with ledger.database.read() as connection:
            assert connection.execute(select(job_errors.c.error)).all() == []

    def test_a_stale_attempt_fails_nothing(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="taken")
        assert not ledger.claims.fail(claim, ERROR, whole=ERROR)
        assert ledger.jobs.get(claim.job_id).status == QUEUED

    def test_the_gpu_lets_go_of_what_is_cancelled(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.jobs.cancel(claim.job_id)
        assert ledger.claims.canceled(claim)
        assert not ledger.claims.canceled(claim)
        assert ledger.jobs.get(claim.job_id).status == CANCELED
