"""Retention: what goes when, what has to stay until somebody has it, and what a client sees of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from core.clock import now_ms
from core.errors import IdempotencyKeyReuse
from core.ledger import Ledger
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.tables import assets, deliveries, events, job_inputs, jobs
from core.records.job import TERMINAL, InputRef
from core.records.job_error import JobError
from core.settings import Settings
from core.storage.folders import FRESH_S, LocalStorage
from tasks.messaging.app import make_app
from tasks.reconciling import expiry
from tasks.reconciling.expiry import remove_expired, sweep, sweep_inputs, sweep_outputs
from tasks.runtime import Runtime, equip
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import WEBHOOK, claimed, generated, set_columns, submit, succeeded
from tests.makers import GRAPH
from tests.waiting import PATIENCE

DAY_S = 24 * 3600
#: A picture that a request brings along.
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
TAKES_A_FILE: dict[str, Any] = {"1": {"class_type": "LoadImage", "inputs": {"image": PIXEL}}, "2": GRAPH["2"]}


@pytest.fixture
def runtime(ledger_settings: Settings) -> Iterator[Runtime]:
    """What the reconciler works with; the test runs on each kind of database."""
    runtime = equip(make_app(ledger_settings, "api"), ledger_settings)
    yield runtime
    runtime.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server whose files go earlier than its jobs."""
    settings = settings_for(tmp_path_factory.mktemp("api"), retention_s=3600, output_retention_s=600)
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


def clean(api: Api) -> None:
    """One run of the reconciler's removal."""
    runtime = equip(make_app(api.settings, "api"), api.settings)
    remove_expired(runtime)
    runtime.close()


def folder(settings: Settings, job_id: str, *, age_s: float = 0) -> Path:
    """A folder of a job with a file in it, untouched for so long."""
    path = settings.outputs_dir / job_id
    path.mkdir(parents=True)
    (path / "a.png").write_bytes(b"a")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def rows(ledger: Ledger, table: Any, job_id: str) -> int:
    with ledger.database.read() as connection:
        query = select(func.count()).select_from(table)
        return connection.execute(query.where((table.c.id if table is jobs else table.c.job_id) == job_id)).scalar_one()


def end_deliveries(ledger: Ledger, state: str) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(deliveries).values(state=state))


def expire(ledger: Ledger, job_id: str) -> None:
    set_columns(ledger, job_id, expires_at_ms=1, files_expire_at_ms=1)


def test_only_ended_jobs_past_their_time_go_and_with_them_all_that_is_theirs(runtime: Runtime) -> None:
    ledger, settings = runtime.ledger, runtime.settings
    old = succeeded(ledger, webhook=WEBHOOK, files=2, inputs=(InputRef(name="n", key="k"),)).job_id
    end_deliveries(ledger, "delivered")
    running = claimed(ledger, secrets={"s3": {}}).job_id
    delivering, young = generated(ledger).job_id, succeeded(ledger).job_id
    for job_id in (old, running, delivering):
        expire(ledger, job_id)
    folders = {job_id: folder(settings, job_id) for job_id in (old, running, delivering, young)}

    remove_expired(runtime)

    assert {job.id for job in ledger.jobs.page()} == {running, delivering, young}
    assert all(rows(ledger, table, old) == 0 for table in (jobs, events, assets, deliveries, job_inputs))
    assert {job_id for job_id, path in folders.items() if path.exists()} == {running, delivering, young}


@pytest.mark.parametrize("state", ["pending", "sending"])
def test_a_job_somebody_is_still_to_be_told_of_stays_with_its_files(runtime: Runtime, state: str) -> None:
    ledger = runtime.ledger
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    end_deliveries(ledger, state)
    expire(ledger, job_id)
    path = folder(runtime.settings, job_id)

    remove_expired(runtime)
    assert (rows(ledger, jobs, job_id), path.exists()) == (1, True)

    end_deliveries(ledger, "dead")
    remove_expired(runtime)
    assert (rows(ledger, jobs, job_id), path.exists()) == (0, False)


def test_files_may_go_earlier_than_their_job(ledger_settings: Settings) -> None:
    runtime = equip(make_app(ledger_settings, "api"), ledger_settings.model_copy(update={"output_retention_s": 60.0}))
    ledger = runtime.ledger
    job_id = succeeded(ledger).job_id
    path = folder(runtime.settings, job_id)
    job = ledger.jobs.get(job_id)
    assert job.completed_at_ms is not None
    assert job.files_expire_at_ms == job.completed_at_ms + 60_000
    assert job.expires_at_ms == job.completed_at_ms + 7 * DAY_S * 1000

    remove_expired(runtime)
    assert path.exists()
    set_columns(ledger, job_id, files_expire_at_ms=1)
    remove_expired(runtime)

    job = ledger.jobs.get(job_id)
    assert (path.exists(), job.files_removed, job.outputs[0].is_expired) == (False, True, True)
    assert job.status == "succeeded", "a terminal status never changes"
    assert ledger.outputs.asset(job.outputs[0].id).is_expired
    runtime.close()


def test_a_job_may_have_a_time_of_its_own_counted_from_its_end(runtime: Runtime) -> None:
    claim = claimed(runtime.ledger, retention_s=90)
    set_columns(runtime.ledger, claim.job_id, created_at_ms=now_ms() - 5_000, expires_at_ms=now_ms() + 85_000)
    set_columns(runtime.ledger, claim.job_id, files_expire_at_ms=now_ms() + 85_000)

    runtime.ledger.claims.fail(claim, JobError(code="timeout", message="late"))

    job = runtime.ledger.jobs.get(claim.job_id)
    assert job.completed_at_ms is not None
    for at_ms in (job.expires_at_ms, job.files_expire_at_ms):
        assert abs(at_ms - job.completed_at_ms - 90_000) < 500


def test_removal_goes_in_steps_and_to_the_end(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "BATCH", 3)
    for _ in range(8):
        expire(runtime.ledger, runtime.ledger.jobs.cancel(submit(runtime.ledger).id).id)
    assert len(runtime.ledger.removal.expired_jobs(limit=3)) == 3

    remove_expired(runtime)

    assert runtime.ledger.jobs.page() == []


def test_one_that_was_killed_between_files_and_row_is_finished_by_the_next(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = succeeded(runtime.ledger).job_id
    expire(runtime.ledger, job_id)
    path = folder(runtime.settings, job_id)

    def killed(_job_ids: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime.ledger.removal, "remove_jobs", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_expired(runtime)
    monkeypatch.undo()
    assert (rows(runtime.ledger, jobs, job_id), path.exists()) == (1, False)

    remove_expired(runtime)
    assert rows(runtime.ledger, jobs, job_id) == 0


def test_folders_without_a_job_are_found_later(runtime: Runtime) -> None:
    settings = runtime.settings
    kept = succeeded(runtime.ledger).job_id
    orphan, young = "0" * 8 + "-0000-0000-0000-" + "0" * 12, "1" * 8 + "-0000-0000-0000-" + "0" * 12
    stay = [
        folder(settings, kept, age_s=2 * DAY_S),
        folder(settings, young, age_s=3600),
        folder(settings, "somebody-elses", age_s=2 * DAY_S),
    ]
    gone = folder(settings, orphan, age_s=2 * DAY_S)

    assert sweep_outputs(runtime) == 1

    assert not gone.exists()
    assert all(path.exists() for path in stay)


def test_a_sweep_is_made_now_and_then(runtime: Runtime) -> None:
    orphan = "0" * 8 + "-0000-0000-0000-" + "0" * 12
    sweep(runtime)
    folder(runtime.settings, orphan, age_s=2 * DAY_S)
    sweep(runtime)
    path = folder(runtime.settings, "1" + orphan[1:], age_s=2 * DAY_S)
    sweep(runtime)
    assert path.exists(), "the one before was a moment ago"

    os.utime(runtime.settings.outputs_dir / expiry.SWEPT, (time.time() - expiry.SWEEP_EVERY_S - 1,) * 2)
    sweep(runtime)
    assert not path.exists()


def test_input_files_that_nothing_refers_to_are_found_later(runtime: Runtime) -> None:
    storage = LocalStorage(runtime.settings.inputs_dir)
    keys = {name: f"{name[0]}/{name}" for name in ("lost", "needed", "young", "ended")}
    for name, key in keys.items():
        draft = storage.draft()
        draft.write_bytes(b"x")
        storage.put(key, draft)
        if name != "young":
            os.utime(storage.path(key), (time.time() - FRESH_S - 1,) * 2)
    submit(runtime.ledger, inputs=(InputRef(name="n", key=keys["needed"]),))
    runtime.ledger.jobs.cancel(submit(runtime.ledger, inputs=(InputRef(name="n", key=keys["ended"]),)).id)

    assert sweep_inputs(runtime) == 2

    assert sorted(storage.keys()) == sorted([keys["needed"], keys["young"]])


def test_a_key_is_good_again_after_a_day(runtime: Runtime) -> None:
    ledger = runtime.ledger
    submit(ledger, idempotency_key="day")
    remove_expired(runtime)
    with pytest.raises(IdempotencyKeyReuse):
        submit(ledger, idempotency_key="day")
    with ledger.database.write() as transaction:
        transaction.connection.execute(idempotency_keys.update().values(created_at_ms=1))

    remove_expired(runtime)

    submit(ledger, idempotency_key="day")


@pytest.mark.slow
def test_much_that_is_over_does_not_hold_up_what_comes_in(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "TIME_LIMIT_S", 100 * PATIENCE)
    ledger = runtime.ledger
    ended_jobs(ledger, 3_000)
    over, submitted = threading.Event(), []

    def submit_all_the_time() -> None:
        while not over.wait(0.01):
            submitted.append(submit(ledger).id)

    client = threading.Thread(target=submit_all_the_time)
    client.start()
    remove_expired(runtime)
    came_meanwhile = len(submitted)
    over.set()
    client.join()

    assert ledger.jobs.count(*TERMINAL) == 0
    # One for two steps, however slow both are; all of it in one transaction would let in one or two.
    assert came_meanwhile > 3_000 / expiry.BATCH / 2


def ended_jobs(ledger: Ledger, count: int) -> None:
    """So many expired jobs, each with an output and four events."""
    template = succeeded(ledger).job_id
    expire(ledger, template)
    with ledger.database.write() as transaction:
        connection = transaction.connection
        for table in (jobs, events, assets):
            column = table.c.id if table is jobs else table.c.job_id
            found = connection.execute(select(table).where(column == template)).mappings().all()
            for start in range(0, count, 1000):
                copies = [
                    {**row, column.name: f"{template[:-8]}{number:08}"}
                    | ({"id": f"a{template[1:-8]}{number:08}"} if table is assets else {})
                    for number in range(start, min(start + 1000, count))
                    for row in found
                ]
                connection.execute(insert(table), copies)


# What a client sees.


@pytest.mark.parametrize("value", [59, 30 * DAY_S + 1, 0, "60", 61.5, True])
@pytest.mark.parametrize("path", ["/api/v2/jobs", "/generate"])
def test_times_that_are_refused(api: Api, path: str, value: Any) -> None:
    body = {"workflow": GRAPH, "retention": value}
    if path == "/generate":
        body = {"input": {"workflow_json": GRAPH, "retention": value}}

    answer = api.post(path, body)

    assert answer.status_code == 422
    assert "retention must be an integer from 60 to 2592000" in answer.json()["error"]["message"]


def test_the_request_decides_how_long(api: Api) -> None:
    ids = [api.submit(retention=120)]
    ids.append(api.post("/generate", {"input": {"workflow_json": GRAPH, "retention": 120}}).json()["id"])

    for job_id in ids:
        api.worker.run(job_id, b"a")
        job = api.ledger.jobs.get(job_id)
        assert job.completed_at_ms is not None
        assert job.expires_at_ms == job.files_expire_at_ms == job.completed_at_ms + 120_000


def test_a_file_that_has_expired_says_so_everywhere(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"a")
    (output,) = api.get(f"/api/v2/jobs/{job_id}").json()["outputs"]
    job = api.ledger.jobs.get(job_id)
    assert "expired" not in output
    assert job.completed_at_ms is not None
    assert job.files_expire_at_ms == job.completed_at_ms + 600_000
    set_columns(api.ledger, job_id, files_expire_at_ms=now_ms() - 1000)

    clean(api)

    view = api.get(f"/api/v2/jobs/{job_id}").json()
    assert (view["status"], view["outputs"][0]["expired"]) == ("succeeded", True)
    assert view["outputs"][0]["url_expires_at"] < view["expires_at"]
    asset = f"/api/v2/assets/{output['id']}"
    assert api.get(asset).json()["url_expires_at"] == view["outputs"][0]["url_expires_at"]
    answer = api.get(f"{asset}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "output_unavailable")
    assert "expired" in answer.json()["error"]["message"]
    (entry,) = api.get(f"/result/{job_id}").json()["output"]
    assert entry["error"] == f"expired: the file was kept until {view['outputs'][0]['url_expires_at']}"
    (entry,) = api.get(f"/result/{job_id}", headers={"X-Return-Outputs-As-Base64": "1"}).json()["output"]
    assert "expired" in entry["error"]
    assert entry["data"] is None
    download = api.get(f"/download/{entry['local_path']}")
    assert download.status_code == 404
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": output["id"]}}, "2": GRAPH["2"]}
    assert api.post("/api/v2/jobs", {"workflow": graph}).json()["error"]["code"] == "missing_asset"


def test_a_job_that_has_expired_is_gone(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"a")
    expire(api.ledger, job_id)

    clean(api)

    assert api.get(f"/api/v2/jobs/{job_id}").status_code == 404
    assert api.get(f"/result/{job_id}").status_code == 404
    assert not (api.settings.outputs_dir / job_id).exists()


def test_deleting(api: Api) -> None:
    job_id = api.submit()
    url = f"{api.url}/api/v2/jobs/{job_id}"

    early = api.session.delete(url, timeout=5)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_not_ended")
    api.worker.run(job_id, b"a")
    (output,) = api.get(f"/api/v2/jobs/{job_id}").json()["outputs"]
    done = api.session.delete(url, timeout=5)
    assert (done.status_code, done.content) == (204, b"")

    assert not (api.settings.outputs_dir / job_id).exists()
    for answer in (
        api.session.delete(url, timeout=5),
        api.get(f"/api/v2/jobs/{job_id}"),
        api.get(f"/api/v2/assets/{output['id']}"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_what_came_in_for_one_job_goes_with_it_and_what_was_uploaded_stays(api: Api) -> None:
    with_data = [api.submit(workflow=TAKES_A_FILE) for _ in range(2)]
    ((key,),) = {tuple(file.key for file in api.ledger.jobs.get(job_id).inputs) for job_id in with_data}
    blob = api.settings.inputs_dir / key

    def forget(job_id: str) -> None:
        api.post(f"/api/v2/jobs/{job_id}/cancel")
        assert api.session.delete(f"{api.url}/api/v2/jobs/{job_id}", timeout=5).status_code == 204
        os.utime(blob, (time.time() - FRESH_S - 1,) * 2)
        clean(api)

    forget(with_data[0])
    assert blob.exists(), "the other job shares it"
    uploaded = api.ledger.input_files.by_hash(f"blake3:{key.rpartition('/')[2]}")
    assert uploaded is not None
    assert uploaded.job_id == with_data[1]
    forget(with_data[1])
    assert not blob.exists()

    own = api.post("/api/v2/assets", data={"file_path": "a.png"}, files={"file": b"no picture"}).json()["id"]
    assert api.ledger.input_files.get(own).job_id is None
