"""Gates on both databases: no more jobs of a tenant or of a batch run than may, and a paused batch begins nothing."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update

from core.clock import now_ms
from core.graph_differences import differences
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.access_tables import tenants
from core.ledger.database.batch_tables import batches
from core.ledger.database.tables import jobs, lines
from core.ledger.scheduling import batch_lines
from core.ledger.scheduling.batch_lines import write_gate
from core.records.job import LEASED
from core.settings import Settings
from core.texts.stored_json import json_text
from tests.ledger_moves import ERROR, accepted, claimed, in_parallel, lapse, submit
from tests.makers import GRAPH, come_up

GPUS = tuple(f"gpu{number}@here" for number in range(8))
BATCH = "b-1"


@pytest.fixture
def fleet(ledger: Ledger) -> Ledger:
    """Eight GPUs, and a second tenant."""
    ledger.tenants.create("acme")
    for name in GPUS:
        come_up(ledger, name)
    return ledger


def limit(ledger: Ledger, tenant: str, most: int | None) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(tenants).where(tenants.c.name == tenant).values(max_running=most))


def batch_of(ledger: Ledger, count: int, *, gate: dict[str, Any] | None = None, **fields: Any) -> list[str]:
    """Record a batch with so many jobs."""
    with ledger.database.write() as transaction:
        row = {"id": BATCH, "created_at_ms": now_ms(), "next_index": count, **(gate or {})}
        transaction.connection.execute(insert(batches).values(**row))
    ids = [submit(ledger, batch=BATCH, batch_index=index, **fields).id for index in range(count)]
    assert ledger.batch_lines.lead(BATCH)
    return ids


def add_to_batch(ledger: Ledger) -> None:
    """Add a job to the batch, as the API does."""
    new, shared = accepted(), str(uuid.uuid4())
    job = replace(new, shared_graph=shared, graph_text=json_text(differences(GRAPH, GRAPH)))
    ledger.batch_intake.add(BATCH, [job], {shared: json_text(GRAPH)}, key=None)
    assert ledger.batch_lines.lead(BATCH)


def set_gate(ledger: Ledger, **values: Any) -> bool:
    """Change the gate of the batch, and lead its jobs."""
    with ledger.database.write() as transaction:
        write_gate(transaction, BATCH, **values)
    return ledger.batch_lines.lead(BATCH)


def claim_all(ledger: Ledger, names: tuple[str, ...] = GPUS) -> list[Claim]:
    """Let each GPU claim once."""
    return [claim for name in names if (claim := ledger.claims.claim(name)) is not None]


def batches_of_lines(ledger: Ledger) -> dict[str, int]:
    """How many jobs wait, by the batch that their lines name."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(lines.c.batch, func.sum(lines.c.waiting)).group_by(lines.c.batch))
        return {row[0]: int(row[1]) for row in rows if row[1]}


def reason_of(ledger: Ledger, job_id: str) -> tuple[str, float | None]:
    outlook = ledger.outlook.read()
    place = outlook.indexes[job_id]
    return outlook.forecast.sentence(*place), outlook.place(*place).starts_in_s


class TestTenants:
    def test_no_more_run_than_may(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 3)
        for _ in range(6):
            submit(fleet, tenant="acme")
        taken = claim_all(fleet)
        assert len(taken) == 3
        assert all(claim.is_gated for claim in taken)
        fleet.claims.fail(taken[0], ERROR)
        assert len(claim_all(fleet)) == 1

    def test_others_are_not_held_up(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 1)
        for _ in range(6):
            submit(fleet, tenant="acme", priority=9)
        free = [submit(fleet).id for _ in range(6)]
        assert sorted(claim.job_id for claim in claim_all(fleet)[1:]) == sorted(free)

    def test_one_on_deck_counts_too(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 2)
        for name in GPUS[1:]:
            claimed(fleet, name)
        for _ in range(4):
            submit(fleet, tenant="acme")
        assert fleet.claims.claim(GPUS[0]) is not None
        assert fleet.claims.claim(GPUS[0], ahead=True) is not None
        assert fleet.claims.claim(GPUS[0], ahead=True) is None

    def test_what_idle_ones_would_take_through_a_gate_is_not_taken_ahead(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 2)
        for name in GPUS[2:]:
            claimed(fleet, name)
        claimed(fleet, GPUS[0], tenant="acme")
        for _ in range(4):
            submit(fleet, tenant="acme")
        assert fleet.claims.claim(GPUS[0], ahead=True) is None
        assert fleet.claims.claim(GPUS[1]) is not None

    def test_a_job_that_is_to_be_cancelled_runs_until_its_gpu_has_let_go(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 1)
        claim = claimed(fleet, tenant="acme")
        submit(fleet, tenant="acme")
        fleet.jobs.cancel(claim.job_id)
        assert claim_all(fleet) == []
        fleet.claims.canceled(claim)
        assert len(claim_all(fleet)) == 1

    def test_the_slot_of_a_dead_worker_is_free_when_its_lease_has_lapsed(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 1)
        claim = claimed(fleet, tenant="acme")
        submit(fleet, tenant="acme")
        assert claim_all(fleet) == []
        lapse(fleet, claim.job_id)
        assert fleet.requeue.take_back_lapsed() == {claim.job_id: "queued"}
        assert len(claim_all(fleet)) == 1

    def test_the_limit_of_the_fleet_is_that_of_all_without_their_own(self, fleet: Ledger, ledger_url: str) -> None:
        for tenant in ("default", "acme"):
            for _ in range(4):
                submit(fleet, tenant=tenant)
        limit(fleet, "acme", 3)
        limited = Ledger(Settings(database_url=ledger_url, tenant_max_running=1))
        try:
            tenants_of = [fleet.jobs.get(claim.job_id).tenant for claim in claim_all(limited)]
        finally:
            limited.close()
        assert sorted(tenants_of) == ["acme"] * 3 + ["default"]

    def test_a_waiting_job_says_why_and_until_when(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 1)
        claimed(fleet, GPUS[0], tenant="acme")
        waiting = submit(fleet, tenant="acme")
        sentence, starts_in_s = reason_of(fleet, waiting.id)
        assert sentence.startswith("Its tenant runs 1 of 1 job; gpu0@here takes it in ")
        assert starts_in_s is not None
        assert starts_in_s > 0

    def test_many_that_claim_at_once_take_as_many_as_may_run(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 5)
        for _ in range(30):
            submit(fleet, tenant="acme")
        check_together(fleet, 5)


class TestBatches:
    def test_a_batch_with_a_limit_has_lines_of_its_own(self, fleet: Ledger) -> None:
        batch_of(fleet, 6, gate={"max_running": 2})
        free = submit(fleet)
        assert batches_of_lines(fleet) == {BATCH: 6, "": 1}
        taken = claim_all(fleet)
        assert len(taken) == 3
        assert free.id in {claim.job_id for claim in taken}

    def test_a_batch_without_one_stands_with_all_others(self, fleet: Ledger) -> None:
        batch_of(fleet, 6)
        submit(fleet)
        assert batches_of_lines(fleet) == {"": 7}
        assert len(claim_all(fleet)) == 7

    def test_a_paused_one_begins_nothing_until_it_goes_on(self, fleet: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch_lines, "CHUNK", 4)
        found = batch_of(fleet, 11, priority=1)
        free = submit(fleet)
        assert set_gate(fleet, is_paused=True)
        assert batches_of_lines(fleet) == {BATCH: 11, "": 1}
        assert [claim.job_id for claim in claim_all(fleet)] == [free.id]
        assert reason_of(fleet, found[0]) == ("Its batch is paused.", None)
        assert fleet.turns.missing() == [], "no useless turns"
        set_gate(fleet, is_paused=False)
        assert {turn.instance for turn in fleet.turns.through_gates()} == set(GPUS[1:])
        assert len(claim_all(fleet, GPUS[1:])) == 7
        assert fleet.line_mender.mend() == 0, "every line counts its jobs"

    def test_until_its_jobs_are_led_they_are_passed_over(self, fleet: Ledger) -> None:
        """Whoever paused it died in between."""
        batch_of(fleet, 3, priority=1)
        free = submit(fleet, priority=1)
        named = submit(fleet, batch=BATCH, priority=1)
        with fleet.database.write() as transaction:
            write_gate(transaction, BATCH, is_paused=True)
        assert fleet.claims.claim(GPUS[0], named=named.id).job_id == free.id  # type: ignore[union-attr]
        assert claim_all(fleet) == []
        assert fleet.batch_lines.lead_all(time_limit_s=5.0) == 1
        assert batches_of_lines(fleet) == {BATCH: 4}
        assert fleet.batch_lines.lead_all(time_limit_s=5.0) == 0, "nothing is left to do"

    def test_one_that_ran_when_it_was_paused_comes_back_behind_the_gate(self, fleet: Ledger) -> None:
        batch_of(fleet, 2)
        claim = fleet.claims.claim(GPUS[0])
        assert claim is not None
        set_gate(fleet, is_paused=True)
        fleet.requeue.release(claim, reason="gone", lost=False)
        assert batches_of_lines(fleet) == {BATCH: 2}
        assert claim_all(fleet) == []

    def test_a_job_that_is_added_stands_where_the_gate_wants_it(self, fleet: Ledger) -> None:
        batch_of(fleet, 1)
        set_gate(fleet, is_paused=True)
        add_to_batch(fleet)
        assert batches_of_lines(fleet) == {BATCH: 2}
        set_gate(fleet, is_paused=False)
        add_to_batch(fleet)
        assert batches_of_lines(fleet) == {BATCH: 2, "": 1}

    def test_one_that_is_led_back_and_forth_loses_nobody(self, fleet: Ledger) -> None:
        found = batch_of(fleet, 20)
        for is_paused in (True, False, True, False):
            set_gate(fleet, is_paused=is_paused, max_running=3)
        begun: list[str] = []
        while taken := claim_all(fleet):
            assert len(taken) <= 3
            begun += [claim.job_id for claim in taken]
            for claim in taken:
                fleet.claims.fail(claim, ERROR)
        assert sorted(begun) == sorted(found)

    def test_deadlines_pass_behind_a_gate(self, fleet: Ledger) -> None:
        found = batch_of(fleet, 2, start_within_s=0.01)
        set_gate(fleet, is_paused=True)
        time.sleep(0.05)
        assert sorted(fleet.requeue.expire_late()) == sorted(found)
        assert batches_of_lines(fleet) == {}

    def test_it_goes_through_the_gate_of_its_tenant_too(self, fleet: Ledger) -> None:
        limit(fleet, "acme", 2)
        batch_of(fleet, 6, gate={"max_running": 4, "tenant": "acme"}, tenant="acme")
        submit(fleet, tenant="acme")
        assert len(claim_all(fleet)) == 2

    def test_many_that_claim_at_once_take_as_many_as_may_run(self, fleet: Ledger) -> None:
        batch_of(fleet, 20, gate={"max_running": 3})
        check_together(fleet, 3)

    def test_whoever_has_paused_it_sees_none_begin_afterwards(self, fleet: Ledger) -> None:
        batch_of(fleet, 200)
        is_over = threading.Event()

        def work(number: int) -> int:
            while number and not is_over.is_set():
                claim = fleet.claims.claim(GPUS[number])
                if claim is not None:
                    fleet.claims.fail(claim, ERROR)
            if number:
                return 0
            time.sleep(0.2)
            try:
                set_gate(fleet, is_paused=True)
                before = began(fleet)
                time.sleep(0.3)
                return began(fleet) - before
            finally:
                is_over.set()

        assert sum(found for found in in_parallel(8, work) if isinstance(found, int)) == 0
        assert 0 < began(fleet) < 200


def test_a_claim_reads_nothing_more_where_there_is_no_gate(fleet: Ledger) -> None:
    submit(fleet)
    claimed(fleet)
    submit(fleet)
    found = statements_of_claim(fleet)
    assert found
    assert not any(text.startswith(("SELECT tenants", "SELECT batches", "SELECT jobs.tenant")) for text in found)
    limit(fleet, "acme", 1)
    submit(fleet, tenant="acme")
    assert any(text.startswith("SELECT tenants") for text in statements_of_claim(fleet))


def test_cap_that_is_raised_wakes_those_that_idle(fleet: Ledger) -> None:
    limit(fleet, "acme", 1)
    for _ in range(5):
        submit(fleet, tenant="acme")
    assert len(claim_all(fleet)) == 1
    assert fleet.turns.through_gates() == fleet.turns.missing() == []
    limit(fleet, "acme", 3)
    assert len(fleet.turns.through_gates()) == 2


def test_a_turn_is_published_for_as_many_as_may_run(fleet: Ledger) -> None:
    limit(fleet, "acme", 3)
    for _ in range(8):
        job = submit(fleet, tenant="acme")
    assert len(fleet.turns.missing()) == 3
    assert fleet.turns.of(job.id) is None


@pytest.fixture
def ledger_url(ledger_settings: Settings) -> str:
    return ledger_settings.ledger_url


def began(ledger: Ledger) -> int:
    with ledger.database.read() as connection:
        return connection.execute(select(func.count()).select_from(jobs).where(jobs.c.attempt > 0)).scalar_one()


def statements_of_claim(ledger: Ledger) -> list[str]:
    """What is asked while a GPU claims, text by text."""
    found: list[str] = []

    def note(*arguments: Any) -> None:
        found.append(arguments[2])

    event.listen(ledger.database.engine, "before_cursor_execute", note)
    ledger.claims.claim(GPUS[1])
    event.remove(ledger.database.engine, "before_cursor_execute", note)
    return found


def check_together(ledger: Ledger, most: int) -> None:
    """Let eight GPUs claim at once, again and again, and then claim and end jobs as they come, until none waits."""
    for _ in range(3):
        taken = [found for found in in_parallel(len(GPUS), lambda number: ledger.claims.claim(GPUS[number])) if found]
        assert len(taken) == most, "never more, and no GPU idles while one more may run"
        for claim in taken:
            assert isinstance(claim, Claim)
            ledger.claims.fail(claim, ERROR)
    counts: list[int] = []

    def work(number: int) -> None:
        while ledger.claims.anything_waits():
            claim = ledger.claims.claim(GPUS[number])
            with ledger.database.read() as connection:
                query = select(func.count()).select_from(jobs).where(jobs.c.status.in_(sorted(LEASED)))
                counts.append(connection.execute(query).scalar_one())
            if claim is not None:
                ledger.claims.fail(claim, ERROR)

    for found in in_parallel(len(GPUS), work):
        assert found is None, found
    assert max(counts) <= most
