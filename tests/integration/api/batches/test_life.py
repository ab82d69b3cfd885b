"""A batch from its first job to its last, and what its client does meanwhile: on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import text

from core.ledger.batches import work
from core.records.access import ALL_TENANTS
from core.records.job_error import JobError
from tests.integration.api.batches.helpers import BATCHES, batch_of, children_of, submit_batch
from tests.integration.api_fixtures import INSTANCE, Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH

HOOK: dict[str, Any] = {"url": "http://127.0.0.1:9/hook", "secret": "a-shared-secret"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgresql" else ""
        settings = settings_for(tmp_path_factory.mktemp("api"), database_url=url)
        running = stack.enter_context(running_api(settings))
        running.worker.come_up()
        yield running


@pytest.fixture(autouse=True)
def empty_queue(api: Api) -> Iterator[None]:
    api.worker.beat()
    yield
    for batch in api.ledger.batches.page(limit=1000):
        cancel_all(api, batch.id)


def cancel_all(api: Api, batch_id: str) -> None:
    api.ledger.batch_work.ask_cancel(batch_id)
    while api.ledger.batch_work.cancel_some(batch_id)[1]:
        pass
    for job in api.ledger.batch_children.page(batch_id, of=ALL_TENANTS, statuses=["canceling"], limit=1000):
        claim = [each for each in CLAIMS if each.job_id == job.id]
        if claim:
            api.ledger.claims.canceled(claim[0])


CLAIMS: list[Any] = []


def claim(api: Api) -> Any:
    found = api.ledger.claims.claim(INSTANCE)
    assert found is not None
    CLAIMS.append(found)
    return found


def fail(api: Api, message: str = "no such colour") -> str:
    taken = claim(api)
    error = JobError(code="node_failed", message=message, node_id="1", class_type="EmptyImage", traceback="long")
    assert api.ledger.claims.fail(taken, error)
    return str(taken.job_id)


def succeed(api: Api) -> str:
    taken = claim(api)
    api.worker.finish(taken, b"picture")
    return str(taken.job_id)


def told(api: Api, batch_id: str) -> list[dict[str, Any]]:
    """The bodies that the batch's webhook is sent, the oldest first."""
    due = api.ledger.outbox.due(limit=1000)
    posts = api.ledger.outbox.take([each.id for each in due if each.batch == batch_id])
    assert all(post.webhook.url == HOOK["url"] for post in posts)
    return [json.loads(post.body) for post in posts]


def test_counts_progress_and_the_end_follow_the_jobs(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..4"}, webhook=HOOK, metadata={"order": "7"})
    succeed(api)
    fail(api)
    now = batch_of(api, batch["id"])
    assert (now["status"], now["progress"], now["completed_at"]) == ("running", 0.5, None)
    assert (now["counts"]["succeeded"], now["counts"]["failed"], now["counts"]["queued"]) == (1, 1, 2)
    assert told(api, batch["id"]) == []
    succeed(api)
    succeed(api)
    over = batch_of(api, batch["id"])
    assert (over["status"], over["progress"], over["time_left_s"], over["completions"]) == ("completed", 1, 0, 1)
    (event,) = told(api, batch["id"])
    assert event["type"] == "batch.completed"
    assert event["data"]["counts"] == over["counts"]
    assert (event["data"]["total"], event["data"]["metadata"]) == (4, {"order": "7"})
    deliveries = api.get("/webhooks/deliveries").json()["deliveries"]
    assert next(each["batch_id"] for each in deliveries if each["event"] == "batch.completed") == batch["id"]


def test_its_webhook_is_signed_with_its_secret(api: Api) -> None:
    batch = submit_batch(api, {"1.color": [1]}, webhook=HOOK)
    opened = api.ledger.batch_work.webhook_secrets([batch["id"]])
    assert opened[batch["id"]] == {"webhook_secret": HOOK["secret"]}
    assert HOOK["secret"] not in json.dumps(batch_of(api, batch["id"]))


def test_progress_is_told_where_it_is_asked_for(api: Api) -> None:
    hook = {**HOOK, "events": ["batch.progress", "batch.completed"], "progress_every_s": 1, "progress_step": 0.4}
    batch = submit_batch(api, {"1.color": "1..5"}, webhook=hook)
    succeed(api)
    assert told(api, batch["id"]) == []
    _long_ago(api, batch["id"])
    succeed(api)
    (event,) = told(api, batch["id"])
    assert (event["type"], event["data"]["progress"]) == ("batch.progress", 0.4)
    succeed(api)
    assert told(api, batch["id"]) == []


def test_the_pace_is_that_of_the_last_places(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ledger.batches.batches.PACE_OF", 2)
    batch = submit_batch(api, {"1.color": "1..4"})
    for _ in range(3):
        succeed(api)
    with api.ledger.database.write() as transaction:
        took = text("UPDATE jobs SET generated_at_ms = started_at_ms + 1000 * batch_index WHERE batch = :id")
        transaction.connection.execute(took, {"id": batch["id"]})
    pace = api.ledger.batches.pace(batch["id"])
    assert pace.run_s == 1.5
    assert pace.last_waiting is not None
    assert pace.last_waiting.batch_index == 3


def test_errors_are_grouped_by_their_cause(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..10"})
    failed = [fail(api, said) for said in ("too bright", *["too dark"] * 6, "too late")]
    errors = batch_of(api, batch["id"])["errors"]
    # The commonest first, and of those that are equally common the one that came first.
    assert [(each["message"], each["count"], each["node_id"]) for each in errors] == [
        ("too dark", 6, "1"),
        ("too bright", 1, "1"),
        ("too late", 1, "1"),
    ]
    assert errors[0]["job_ids"] == failed[1:6]


def test_the_commonest_causes_are_told(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..30"})
    for number in range(28):
        fail(api, f"cause {max(number, 5)}")
    errors = batch_of(api, batch["id"])["errors"]
    assert [each["message"] for each in errors] == [f"cause {number}" for number in range(5, 25)]


def test_a_retry_replaces_what_failed_and_the_batch_completes_again(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..3"}, webhook=HOOK)
    failed = fail(api)
    succeed(api)
    succeed(api)
    assert len(told(api, batch["id"])) == 1
    again = api.post(f"{BATCHES}/{batch['id']}/retry").json()
    assert (again["status"], again["total"], again["counts"]["queued"]) == ("running", 3, 1)
    assert api.post(f"{BATCHES}/{batch['id']}/retry").json()["counts"] == again["counts"]
    first = children_of(api, batch["id"])[0]
    assert first["batch"] == {"id": batch["id"], "index": 0, "varied": {"1.color": 1}, "replaces": failed}
    assert api.get(f"/api/v2/jobs/{failed}").json()["status"] == "failed"
    taken = claim(api)
    assert json.loads(taken.graph)["1"]["inputs"]["color"] == 1
    api.worker.finish(taken, b"picture")
    over = batch_of(api, batch["id"])
    assert (over["status"], over["completions"], over["counts"]["succeeded"]) == ("completed", 2, 3)
    (event,) = told(api, batch["id"])
    assert event["data"]["sequence"] == 2
    unchanged = api.post(f"{BATCHES}/{batch['id']}/retry", {"statuses": ["failed"]}).json()
    assert (unchanged["status"], unchanged["completions"]) == ("completed", 2)
    assert told(api, batch["id"]) == []


def test_a_cancelled_batch_ends_as_a_whole(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..5"}, webhook=HOOK)
    running = claim(api)
    canceled = api.post(f"{BATCHES}/{batch['id']}/cancel").json()
    assert (canceled["counts"]["canceled"], canceled["counts"]["canceling"]) == (4, 1)
    assert running.job_id in api.publisher.canceled
    assert api.ledger.claims.claim(INSTANCE) is None
    assert api.ledger.claims.canceled(running)
    over = api.post(f"{BATCHES}/{batch['id']}/cancel").json()
    assert (over["status"], over["counts"]["canceled"], over["is_canceling"]) == ("completed", 5, False)
    assert [each["type"] for each in told(api, batch["id"])] == ["batch.completed"]
    events = api.ledger.jobs.events(children_of(api, batch["id"])[4]["id"])
    assert [event.data["status"] for event in events] == ["queued", "canceled"]


def test_a_large_cancel_is_done_in_steps_that_anybody_goes_on_with(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STEP", 3)
    batch = submit_batch(api, {"1.color": "1..10"})
    api.ledger.batch_work.ask_cancel(batch["id"])
    assert api.ledger.batch_work.cancel_some(batch["id"]) == ([], True)
    assert batch_of(api, batch["id"])["counts"]["canceled"] == 3
    assert (batch["id"], True) in api.ledger.batch_work.unfinished()
    while api.ledger.batch_work.cancel_some(batch["id"])[1]:
        pass
    assert batch_of(api, batch["id"])["counts"]["canceled"] == 10
    assert api.ledger.batch_work.unfinished() == []
    lines = [line for line in api.ledger.outlook.sizes().items() if line[0] == "queued"]
    assert not lines or lines[0][1] == 0


@pytest.mark.parametrize("most", [None, 4])
def test_no_gpu_begins_what_is_about_to_be_cancelled(
    api: Api, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    """From the moment in which the cancel is written, with a line of the batch's own or among others."""
    monkeypatch.setattr(work, "STEP", 3)
    batch = submit_batch(api, {"1.color": "1..10"}, max_running=most)
    api.ledger.batch_work.ask_cancel(batch["id"])
    assert api.ledger.claims.claim(INSTANCE) is None
    other = submit_batch(api, {"1.color": "11..12"}, max_running=most)
    assert api.ledger.batch_work.cancel_some(batch["id"]) == ([], True)
    theirs = {claim(api).job_id, claim(api).job_id}
    assert theirs == {child["id"] for child in children_of(api, other["id"])}
    assert api.ledger.claims.claim(INSTANCE) is None
    while api.ledger.batch_work.cancel_some(batch["id"])[1]:
        pass
    assert batch_of(api, batch["id"])["counts"]["canceled"] == 10


def test_a_large_retry_is_done_in_steps_that_anybody_goes_on_with(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STEP", 2)
    batch = submit_batch(api, {"1.color": "1..5"})
    for _ in range(5):
        fail(api)
    assert len(api.ledger.batch_work.ask_retry(batch["id"], ["failed"])) == 2
    half = batch_of(api, batch["id"])
    assert (half["is_retrying"], half["counts"]["queued"], half["counts"]["failed"]) == (True, 2, 3)
    assert api.ledger.batch_work.close_ended() == []
    while api.ledger.batch_work.retry_some(batch["id"])[1]:
        pass
    done = batch_of(api, batch["id"])
    assert (done["is_retrying"], done["counts"]["queued"], done["counts"]["failed"]) == (False, 5, 0)
    assert [child["batch"]["index"] for child in children_of(api, batch["id"])] == list(range(5))


def test_a_retry_beside_another_is_added_to_it_and_nothing_is_lost(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STEP", 1)
    asked = api.ledger.batch_work.ask_retry
    batch = submit_batch(api, {"1.color": "1..5"})
    fail(api)
    fail(api)
    # The first to be made again stands in the place of the first one that failed.
    assert len(asked(batch["id"], ["failed"])) == 1
    assert asked(batch["id"], ["failed"]) == [], "the one that is under way makes all of it again"
    fail(api)
    canceled = children_of(api, batch["id"], status="queued")[0]
    assert api.post(f"/api/v2/jobs/{canceled['id']}/cancel").status_code in (200, 202)

    # One failed since the first was asked for, and another was cancelled, which that one leaves as it is.
    assert len(asked(batch["id"], ["failed", "canceled"])) == 1
    assert batch_of(api, batch["id"])["is_retrying"]
    while api.ledger.batch_work.retry_some(batch["id"])[1]:
        pass

    done = batch_of(api, batch["id"])
    assert (done["is_retrying"], done["counts"]["queued"], done["total"]) == (False, 5, 5)
    assert [child["batch"]["index"] for child in children_of(api, batch["id"])] == list(range(5))
    for _ in range(5):
        succeed(api)


def test_a_retry_of_an_earlier_version_is_gone_on_with(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "STEP", 1)
    batch = submit_batch(api, {"1.color": "1..2"})
    fail(api)
    fail(api)
    assert len(api.ledger.batch_work.ask_retry(batch["id"], ["failed"])) == 1
    with api.ledger.database.write() as transaction:
        as_before = text("UPDATE batches SET retry_statuses = :statuses WHERE id = :id")
        transaction.connection.execute(as_before, {"id": batch["id"], "statuses": '["failed"]'})

    while api.ledger.batch_work.retry_some(batch["id"])[1]:
        pass

    assert batch_of(api, batch["id"])["counts"]["queued"] == 2
    succeed(api)
    succeed(api)


def test_no_more_run_at_once_than_may(api: Api) -> None:
    submit_batch(api, {"1.color": "1..3"}, max_running=1)
    first = claim(api)
    assert api.ledger.claims.claim(INSTANCE) is None

    api.worker.finish(first, b"picture")

    second = claim(api)
    assert api.ledger.claims.claim(INSTANCE) is None
    api.worker.finish(second, b"picture")
    succeed(api)


def test_a_paused_batch_begins_nothing_whatever_is_added_or_made_again(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..2"})
    fail(api)
    assert api.post(f"{BATCHES}/{batch['id']}/pause").json()["status"] == "paused"
    assert api.ledger.claims.claim(INSTANCE) is None
    assert api.post(f"{BATCHES}/{batch['id']}/retry").status_code == 200
    assert api.post(f"{BATCHES}/{batch['id']}/jobs", {"over": {"1.color": [7]}}).status_code == 201
    assert api.ledger.claims.claim(INSTANCE) is None
    reasons = {child["queue"]["reason"] for child in children_of(api, batch["id"], status="queued")}
    assert reasons == {"Its batch is paused."}

    assert api.post(f"{BATCHES}/{batch['id']}/resume").json()["status"] == "running"

    for _ in range(3):
        succeed(api)
    assert batch_of(api, batch["id"])["status"] == "completed"


def test_a_tenants_waiting_jobs_are_limited_for_all_jobs_of_a_batch(api: Api) -> None:
    api.ledger.tenants.change("default", limits={"max_waiting": 2})
    try:
        # Each API process knows it within a second.
        time.sleep(1.2)
        answer = api.post(BATCHES, {"workflow": GRAPH, "over": {"1.color": "1..3"}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_reached")
        batch = submit_batch(api, {"1.color": "1..2"})
        assert api.post(f"{BATCHES}/{batch['id']}/jobs", {"over": {"1.color": [7]}}).status_code == 429
        succeed(api)
        succeed(api)
    finally:
        api.ledger.tenants.change("default", limits={"max_waiting": None})
        time.sleep(1.2)


def test_a_retry_is_limited_as_a_submission_is(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..2"})
    fail(api)
    fail(api)
    api.ledger.tenants.change("default", limits={"max_waiting": 1})
    try:
        # Each API process knows it within a second.
        time.sleep(1.2)
        answer = api.post(f"{BATCHES}/{batch['id']}/retry")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_reached")
        assert batch_of(api, batch["id"])["counts"]["failed"] == 2
    finally:
        api.ledger.tenants.change("default", limits={"max_waiting": None})
        time.sleep(1.2)
    assert api.post(f"{BATCHES}/{batch['id']}/retry").json()["counts"]["queued"] == 2
    succeed(api)
    succeed(api)


def test_pause_and_resume_are_shown_and_safe_to_repeat(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..2"}, max_running=1)
    for step, status in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
        assert api.post(f"{BATCHES}/{batch['id']}/{step}").json()["status"] == status
    assert batch["max_running"] == 1


def test_jobs_that_are_added_open_a_completed_batch_again(api: Api) -> None:
    batch = submit_batch(api, {"1.color": [1]}, webhook=HOOK)
    succeed(api)
    assert len(told(api, batch["id"])) == 1
    answer = api.post(f"{BATCHES}/{batch['id']}/jobs", {"over": {"1.color": [2]}})
    assert (answer.json()["status"], answer.json()["total"]) == ("running", 2)
    succeed(api)
    assert batch_of(api, batch["id"])["completions"] == 2
    assert len(told(api, batch["id"])) == 1


def test_a_batch_whose_end_nobody_saw_is_closed_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = submit_batch(api, {"1.color": [1]}, webhook=HOOK)
    with monkeypatch.context() as patched:
        patched.setattr("core.ledger.transitions.note_end", lambda *_: None)
        succeed(api)
    assert batch_of(api, batch["id"])["status"] == "running"
    assert api.ledger.batch_work.close_ended() == [batch["id"]]
    assert api.ledger.batch_work.close_ended() == []
    assert len(told(api, batch["id"])) == 1


def test_secrets_of_a_batch_reach_jobs_that_are_made_again(api: Api) -> None:
    secret = {"api_key_comfy_org": "partner-key"}
    batch = submit_batch(api, {"1.color": [1]}, extra_data=secret)
    first = children_of(api, batch["id"])[0]["id"]
    assert api.ledger.secrets.open(first, "run") == secret
    fail(api)
    api.post(f"{BATCHES}/{batch['id']}/retry")
    again = children_of(api, batch["id"])[0]["id"]
    assert again != first
    assert api.ledger.secrets.open(again, "run") == secret


def test_a_batch_and_its_graphs_go_with_its_last_job(api: Api) -> None:
    batch = submit_batch(api, {"1.color": [1, 2]}, webhook=HOOK)
    ids = [succeed(api), succeed(api)]
    api.ledger.batch_work.forget()
    assert batch_of(api, batch["id"])["total"] == 2
    # What is told of the batch is kept with another of its jobs.
    api.ledger.jobs.get(ids[1])
    assert api.ledger.removal.delete_job(ids[1])
    assert len(told(api, batch["id"])) == 1
    assert api.get(f"/api/v2/jobs/{ids[0]}/workflow").json()["workflow"]["2"] == GRAPH["2"]
    assert api.ledger.removal.delete_job(ids[0])
    assert api.ledger.batch_work.forget() >= 1
    assert api.get(f"{BATCHES}/{batch['id']}").status_code == 404


def _long_ago(api: Api, batch_id: str) -> None:
    with api.ledger.database.write() as transaction:
        told_long_ago = text("UPDATE batches SET told_at_ms = 1 WHERE id = :id")
        transaction.connection.execute(told_long_ago, {"id": batch_id})
