"""What one tenant owns is not there for another one, on both databases; and what a ledger had before goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from core.errors import IdempotencyKeyReuse, NotFound, RequestIdReuse
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.ledger.upgrade import alembic_config, migrate
from core.records.job import SUCCEEDED, Job
from core.settings import Settings
from tests.ledger_moves import WEBHOOK, set_columns, submit

DIGEST = "blake3:" + "0" * 64


def acme(ledger: Ledger, **fields: Any) -> Job:
    return submit(ledger, tenant="acme", **fields)


def uploaded(ledger: Ledger, tenant: str, file_id: str) -> None:
    file = InputFile(
        id=file_id,
        tenant=tenant,
        hash=DIGEST,
        name="room.png",
        content_type="image/png",
        size_bytes=1,
        storage_key="00/0",
        created_at_ms=1,
        expires_at_ms=2**45,
    )
    ledger.input_files.add(file)


LOOK_UPS: dict[str, Callable[[Ledger, str, str], Any]] = {
    "get": lambda ledger, job_id, of: ledger.jobs.get(job_id, of=of),
    "get_by_request_id": lambda ledger, job_id, of: ledger.jobs.get_by_request_id(job_id, by=of, of=of),
    "graph": lambda ledger, job_id, of: ledger.jobs.graph(job_id, of=of),
    "cancel": lambda ledger, job_id, of: ledger.jobs.cancel(job_id, of=of),
}


@pytest.mark.parametrize("look_up", list(LOOK_UPS))
def test_a_job_is_found_by_its_tenant_alone(ledger: Ledger, look_up: str) -> None:
    job = acme(ledger)
    with pytest.raises(NotFound):
        LOOK_UPS[look_up](ledger, job.id, "default")
    assert ledger.jobs.get(job.id).status == "queued"
    LOOK_UPS[look_up](ledger, job.id, "acme")


def test_the_error_of_a_job_is_its_tenants(ledger: Ledger) -> None:
    job = acme(ledger)
    set_columns(ledger, job.id, status="failed", error={"code": "x", "message": "y"})
    assert ledger.jobs.error(job.id, of="acme").code == "x"
    with pytest.raises(NotFound, match=f"no job {job.id}"):
        ledger.jobs.error(job.id, of="default")


def test_lists_have_a_tenants_own(ledger: Ledger) -> None:
    own, others = acme(ledger), submit(ledger)
    assert [job.id for job in ledger.jobs.page(of="acme")] == [own.id]
    assert [job.id for job in ledger.jobs.page(of="default")] == [others.id]
    assert len(ledger.jobs.page()) == 2
    assert list(ledger.jobs.states([own.id, others.id], of="acme")) == [own.id]


def test_an_idempotency_key_is_unique_in_its_tenant(ledger: Ledger) -> None:
    first, second = acme(ledger, idempotency_key="k"), submit(ledger, idempotency_key="k")
    for tenant, job in (("acme", first), ("default", second)):
        with pytest.raises(IdempotencyKeyReuse) as caught:
            submit(ledger, tenant=tenant, idempotency_key="k")
        assert caught.value.job_id == job.id


def test_a_request_id_is_unique_in_its_tenant(ledger: Ledger) -> None:
    first = acme(ledger, request_id="r", request_digest=b"1")
    assert ledger.requests.join("r", b"1") is None, "another tenant's is another request"
    second = submit(ledger, request_id="r", request_digest=b"1")
    for tenant, job in (("acme", first), ("default", second)):
        assert ledger.requests.join("r", b"1", tenant=tenant) == job.id
        assert ledger.jobs.get_by_request_id("r", by=tenant).id == job.id
        assert ledger.jobs.get_by_request_id("r", by=tenant, of=tenant).id == job.id
        with pytest.raises(RequestIdReuse):
            submit(ledger, tenant=tenant, request_id="r")


def test_a_file_is_found_by_its_tenant_alone(ledger: Ledger) -> None:
    uploaded(ledger, "acme", "f")
    files = ledger.input_files
    assert files.get("f", of="acme").tenant == "acme"
    assert files.by_hash(DIGEST, of="acme") is not None
    assert files.by_hash(DIGEST, of="default") is None
    assert list(files.named(["room.png"], of="acme")) == ["room.png"]
    assert files.named(["room.png"], of="default") == {}
    for refused in (lambda: files.get("f", of="default"), lambda: files.remove("f", of="default")):
        with pytest.raises(NotFound):
            refused()
    files.remove("f", of="acme")


def test_a_delivery_is_its_jobs_tenants(ledger: Ledger) -> None:
    job = acme(ledger, webhook=WEBHOOK)
    ledger.jobs.cancel(job.id)
    [delivery] = ledger.deliveries.page(of="acme")
    assert ledger.deliveries.page(of="default") == []
    assert ledger.deliveries.get(delivery.id, of="acme").job_id == job.id
    with pytest.raises(NotFound):
        ledger.deliveries.get(delivery.id, of="default")
    with ledger.database.write() as transaction:
        transaction.connection.execute(text("UPDATE deliveries SET state = 'dead', next_try_at_ms = NULL"))
    assert ledger.deliveries.purge("dead", of="default") == 0
    assert ledger.deliveries.purge("dead", of="acme") == 1


def test_tenants_stand_in_lines_of_their_own(ledger: Ledger) -> None:
    acme(ledger)
    submit(ledger)
    with ledger.database.read() as connection:
        tenants = sorted(line.kind.tenant for line in ledger.lines.waiting(connection))
    assert tenants == ["", "acme"], "`default` stands in the lines that were there before"


def test_a_job_that_fell_out_of_line_comes_back_into_its_tenants(ledger: Ledger) -> None:
    job = acme(ledger)
    with ledger.database.read() as connection:
        [line] = ledger.lines.waiting(connection)
    set_columns(ledger, job.id, line=None)
    ledger.line_mender.mend()
    with ledger.database.read() as connection:
        assert connection.execute(text("SELECT line FROM jobs")).scalar_one() == line.id


def test_what_was_there_before_belongs_to_the_default_tenant(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings)
    scripts = ScriptDirectory.from_config(alembic_config())
    [step] = [script for script in scripts.walk_revisions() if script.path.endswith("_tenants.py")]
    job = submit(ledger, request_id="r", request_digest=b"1", idempotency_key="k")
    ended = submit(ledger, request_id="other", webhook=WEBHOOK)
    set_columns(ledger, ended.id, status=SUCCEEDED)
    uploaded(ledger, "default", "f")
    with ledger.database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), str(step.down_revision))
        connection.commit()
        assert connection.execute(text("SELECT request_id FROM jobs ORDER BY request_id")).scalars().all() == [
            "other",
            "r",
        ]
    migrate(ledger_settings)

    assert ledger.jobs.get(job.id, of="default") == job
    assert ledger.jobs.get_by_request_id("other", of="default").id == ended.id
    assert ledger.requests.join("r", b"1") == job.id
    with pytest.raises(IdempotencyKeyReuse):
        submit(ledger, idempotency_key="k")
    assert ledger.input_files.get("f", of="default").id == "f"
    assert [tenant.name for tenant in ledger.tenants.all()] == ["default"]
    claim = ledger.claims.claim("gpu0@here")
    assert claim is not None
    assert claim.job_id == job.id
    ledger.close()


def test_a_process_of_an_earlier_version_submits_for_the_default_tenant(ledger: Ledger) -> None:
    job = submit(ledger, request_id="r")
    with ledger.database.write() as transaction:
        # As its statement names no tenant.
        transaction.connection.execute(
            text("INSERT INTO idempotency_keys (key, job_id, created_at_ms) VALUES ('k', :job, 1)"), {"job": job.id}
        )
    with pytest.raises(IdempotencyKeyReuse):
        submit(ledger, idempotency_key="k")
