"""Jobs by their labels; many of them counted, cancelled and deleted at once, on both databases."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from api.service import bulk_work as bulk
from core.clock import now_ms
from core.contracts.comfy_v2 import timestamp
from core.ledger.many_jobs import Bulk
from core.storage.backend import output_storage
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.test_tenants import Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.ledger_moves import check_log, set_columns

PICTURE = png(3)
#: The server asks for keys from its start: the first one that a test makes would close it.
KEY = "k-own"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with running_api(settings_for(folder, api_keys=(KEY,))) as running:
            running.worker.come_up()
            running.session.headers["Authorization"] = f"Bearer {KEY}"
            yield running
        return
    with postgres_database() as url, running_api(settings_for(folder, api_keys=(KEY,), database_url=url)) as running:
        running.worker.come_up()
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        yield running


def asked(api: Api, action: str, **body: Any) -> dict[str, Any]:
    answer = api.post(f"/api/v2/bulk/{action}", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def status_of(api: Api, job_id: str) -> str:
    return str(api.get(f"/api/v2/jobs/{job_id}").json()["status"])


def test_a_label_is_shown_and_found(api: Api) -> None:
    mine = api.submit(label="blue")
    api.submit(label="red")
    assert api.get(f"/api/v2/jobs/{mine}").json()["label"] == "blue"
    listed = api.get("/api/v2/jobs", params={"label": "blue"}).json()["jobs"]
    assert [job["id"] for job in listed] == [mine]


@pytest.mark.parametrize("label", ["", "x" * 129, "a\nb", "\u202egnp", "a\u2028b", 7, ["a"]])
def test_what_can_be_no_label(api: Api, label: Any) -> None:
    answer = api.post("/api/v2/jobs", {"workflow": {}, "label": label})
    assert answer.status_code == 422
    assert "label" in answer.text
    if isinstance(label, str):
        assert api.get("/api/v2/jobs", params={"label": label}).status_code == 400


def test_generate_takes_a_label_too(api: Api) -> None:
    graph = api.get(f"/api/v2/jobs/{api.submit()}/workflow").json()["workflow"]
    answer = api.post("/generate", {"input": {"workflow_json": graph, "label": "lbl-generate"}})
    assert answer.status_code == 202
    assert len(api.get("/api/v2/jobs?label=lbl-generate").json()["jobs"]) == 1


def test_a_count_does_nothing_and_its_repetition_all(api: Api) -> None:
    waiting = [api.submit(label="one") for _ in range(3)]
    running = api.submit(label="one")
    api.worker.claim(running)
    other = api.submit(label="two")

    counted = asked(api, "cancel", label="one")
    assert (counted["dry_run"], counted["matched"], counted["done"]) == (True, 4, 0)
    assert counted["by_status"] == {"queued": 3, "running": 1}
    assert {status_of(api, job_id) for job_id in waiting} == {"queued"}

    done = asked(api, "cancel", label="one", confirm=counted["confirm"])
    assert (done["dry_run"], done["done"], done["left"]) == (False, 4, 0)
    assert {status_of(api, job_id) for job_id in waiting} == {"canceled"}
    assert status_of(api, running) == "canceling"
    assert running in api.publisher.canceled, "its worker is told to interrupt it"
    assert status_of(api, other) == "queued"
    for job_id in waiting:
        check_log(api.ledger, job_id)

    again = asked(api, "cancel", label="one", confirm=counted["confirm"])
    assert (again["done"], again["left"]) == (0, 0)


def test_what_came_after_the_count_is_not_meant(api: Api) -> None:
    api.submit(label="early")
    counted = asked(api, "cancel", label="early")
    late = api.submit(label="early")
    done = asked(api, "cancel", label="early", confirm=counted["confirm"])
    assert done["done"] == counted["matched"]
    assert status_of(api, late) == "queued"


def test_what_ended_after_the_count_is_not_deleted(api: Api) -> None:
    jobs = [api.submit(label="ends") for _ in range(2)]
    api.worker.run(jobs[0], PICTURE)
    counted = asked(api, "delete", label="ends")
    api.worker.run(jobs[1], PICTURE)
    done = asked(api, "delete", label="ends", confirm=counted["confirm"])
    assert (counted["matched"], done["done"]) == (1, 1)
    assert status_of(api, jobs[1]) == "succeeded"


def test_a_job_may_end_after_the_time_it_was_to_be_submitted_before(api: Api) -> None:
    job_id = api.submit(label="noon")
    time.sleep(0.01)
    noon = timestamp(now_ms())
    time.sleep(0.01)
    api.worker.run(job_id, PICTURE)
    filters = {"label": "noon", "created_before": noon}
    counted = asked(api, "delete", **filters)
    done = asked(api, "delete", **filters, confirm=counted["confirm"])
    assert (counted["matched"], done["done"]) == (1, 1)


def test_more_than_were_counted_are_refused(api: Api) -> None:
    jobs = [api.submit(label="grows") for _ in range(2)]
    api.worker.claim(jobs[0])
    counted = asked(api, "cancel", label="grows", status=["running"])
    assert counted["matched"] == 1
    api.worker.claim(jobs[1])
    body = {"label": "grows", "status": ["running"], "confirm": counted["confirm"]}
    answer = api.post("/api/v2/bulk/cancel", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "more_match")
    assert {status_of(api, job_id) for job_id in jobs} == {"running"}


def test_deletion_takes_the_files_and_leaves_what_has_not_ended(api: Api) -> None:
    jobs = [api.submit(label="old") for _ in range(3)]
    for job_id in jobs[:2]:
        api.worker.run(job_id, PICTURE)
    counted = asked(api, "delete", label="old")
    assert counted["by_status"] == {"succeeded": 2}
    done = asked(api, "delete", label="old", confirm=counted["confirm"])
    assert (done["done"], done["left"]) == (2, 0)
    assert [api.get(f"/api/v2/jobs/{job_id}").status_code for job_id in jobs] == [404, 404, 200]
    assert not set(jobs) & set(output_storage(api.settings).folders())


def test_the_same_request_goes_on_after_its_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        api.submit(label="slow")
    monkeypatch.setattr(bulk, "SOME", 2)
    monkeypatch.setattr(bulk, "HOLD_S", 60.0)
    counted = asked(api, "cancel", label="slow")
    monkeypatch.setattr(bulk, "BUDGET_S", 0.0)
    assert asked(api, "cancel", label="slow", confirm=counted["confirm"])["left"] == 5
    monkeypatch.setattr(bulk, "BUDGET_S", 10.0)
    assert asked(api, "cancel", label="slow", confirm=counted["confirm"])["left"] == 0


def test_it_goes_on_after_a_death_in_the_middle(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        api.submit(label="killed")
    monkeypatch.setattr(bulk, "SOME", 2)
    monkeypatch.setattr(bulk, "HOLD_S", 60.0)
    counted = asked(api, "cancel", label="killed")
    calls, real = [], Bulk.cancel_some

    def dies(self: Bulk, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SystemError("as if the process had died")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Bulk, "cancel_some", dies)
    assert api.post("/api/v2/bulk/cancel", {"label": "killed", "confirm": counted["confirm"]}).status_code == 500
    rest = asked(api, "cancel", label="killed", confirm=counted["confirm"])
    assert (rest["done"], rest["left"]) == (3, 0)


@pytest.mark.parametrize(
    ("action", "body", "words"),
    [
        ("cancel", {}, "Say which jobs"),
        ("cancel", {"tenant": "default"}, "Say which jobs"),
        ("cancel", {"status": []}, "Say which jobs"),
        ("cancel", {"status": ["succeeded"]}, "status: 'succeeded' is none of queued, running"),
        ("delete", {"status": ["running"]}, "only such jobs can be deleted"),
        ("delete", {"status": "failed"}, "status"),
        ("delete", {"label": "x\0"}, "label"),
        ("delete", {"batch": "x\0"}, "batch"),
        ("delete", {"template": "x" * 256}, "template"),
        ("delete", {"lable": "x"}, "lable"),
        ("delete", {"label": "x", "confirm": "yes"}, "confirm must be"),
        ("delete", {"label": "x", "confirm": f"1-1-{'0' * 8}:{'0' * 64}"}, "confirm belongs to other jobs"),
    ],
)
def test_bad_filters(api: Api, action: str, body: dict[str, Any], words: str) -> None:
    answer = api.post(f"/api/v2/bulk/{action}", body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]


def test_a_bad_time_is_refused(api: Api) -> None:
    answer = api.post("/api/v2/bulk/delete", {"created_before": "yesterday"})
    assert answer.status_code == 422
    assert "created_before" in answer.text


def test_times_batches_and_templates_are_filters(api: Api) -> None:
    first, second = api.submit(label="timed"), api.submit(label="timed")
    set_columns(api.ledger, first, created_at_ms=1_000, batch="b-1", workflow="sd3")
    for body in ({"created_before": "1970-01-01T00:00:02Z"}, {"batch": "b-1"}, {"template": "sd3"}):
        assert asked(api, "cancel", label="timed", **body)["matched"] == 1
    assert asked(api, "cancel", label="timed", created_after="1970-01-01T00:00:01Z")["matched"] == 2
    set_columns(api.ledger, second, created_at_ms=2_000)
    assert asked(api, "cancel", label="timed", created_after="1970-01-01T00:00:02Z")["matched"] == 1


def test_the_word_of_one_action_or_filter_is_none_of_another(api: Api) -> None:
    api.submit(label="safe")
    counted = asked(api, "cancel", label="safe")
    for action, label in (("delete", "safe"), ("cancel", "other")):
        answer = api.post(f"/api/v2/bulk/{action}", {"label": label, "confirm": counted["confirm"]})
        assert answer.status_code == 422


def test_tenants_touch_their_own_alone(api: Api) -> None:
    acme, globex = Client(api, "bulk-acme"), Client(api, "bulk-globex")
    theirs, mine = acme.submitted(label="shared"), globex.submitted(label="shared")
    counted = globex.ask("POST", "/api/v2/bulk/cancel", json={"label": "shared"}).json()
    assert counted["matched"] == 1
    body = {"label": "shared", "confirm": counted["confirm"]}
    assert acme.ask("POST", "/api/v2/bulk/cancel", json=body).status_code == 422, "nor is its word another's"
    assert globex.ask("POST", "/api/v2/bulk/cancel", json=body).json()["done"] == 1
    assert api.ledger.jobs.get(theirs).status == "queued"
    assert api.ledger.jobs.get(mine).status == "canceled"
    for tenant in ("bulk-acme", "nobody", "*"):
        answer = globex.ask("POST", "/api/v2/bulk/cancel", json={"label": "shared", "tenant": tenant})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")
    operator = Client(api, "default", "cancel", "operate")
    found = {
        tenant: operator.ask("POST", "/api/v2/bulk/cancel", json={"label": "shared", **tenant_field}).json()["matched"]
        for tenant, tenant_field in {
            "own": {},
            "acme": {"tenant": "bulk-acme"},
            "all": {"tenant": "*"},
        }.items()
    }
    assert found == {"own": 0, "acme": 1, "all": 1}
    reader = Client(api, "bulk-acme", "read", "submit")
    assert reader.ask("POST", "/api/v2/bulk/cancel", json={"label": "shared"}).status_code == 403
