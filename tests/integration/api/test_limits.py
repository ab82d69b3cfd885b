"""What tenants may have at most, on every contract: refused in its own words, with when to ask again."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from core.clock import now_ms
from core.ledger.database.usage_entries import Owner
from core.records.job import QUEUED
from core.records.tenant_limits import LIMITS, TenantLimits
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.test_tenants import SUBMISSIONS, Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import until

DAY_MS = 24 * 3600 * 1000


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with running_api(settings_for(folder)) as running:
            running.worker.come_up()
            yield running
        return
    with postgres_database() as url, running_api(settings_for(folder, database_url=url)) as running:
        running.worker.come_up()
        yield running


@pytest.fixture(autouse=True)
def nothing_waits(api: Api) -> None:
    """Let no job of another test be taken in place of one that is meant."""
    for job in api.ledger.jobs.page(statuses=[QUEUED], limit=1000):
        api.ledger.jobs.cancel(job.id)


@pytest.fixture
def admin(api: Api) -> Client:
    return Client(api, "default", "admin", "read", "submit")


def limited(api: Api, **limits: float) -> Client:
    """A new tenant with these limits, and a key of it."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    api.ledger.tenants.create(name, limits=TenantLimits.of(limits))
    api.worker.beat()
    return Client(api, name)


def levels(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.ask("GET", "/api/v2/limits").json()["limits"]
    return found


def refused_in_the_end(client: Client, path: str, body: Any) -> requests.Response:
    """Submit until that is refused: sums are as old as two seconds."""
    answers = [client.ask("POST", path, json=body)]

    def is_refused() -> bool:
        time.sleep(0.2)
        answers.append(client.ask("POST", path, json=body))
        return answers[-1].status_code == 429

    until(is_refused, timeout_s=15, what="a refusal")
    return answers[-1]


@pytest.mark.parametrize("path", list(SUBMISSIONS))
def test_waiting_jobs_are_limited_on_every_contract(api: Api, path: str) -> None:
    client = limited(api, max_waiting=2)
    taken = [client.ask("POST", path, json=SUBMISSIONS[path](0)) for _ in range(2)]
    assert all(answer.status_code in (201, 202) for answer in taken)

    refused = client.ask("POST", path, json=SUBMISSIONS[path](0))

    body = refused.json()
    assert (refused.status_code, body["error"]["code"]) == (429, "limit_reached")
    assert body["error"]["details"] == {"limit": "max_waiting", "allowed": 2, "used": 2}
    assert ("detail" in body) == (path != "/api/v2/jobs"), "as older servers of these contracts answer"
    assert int(refused.headers["Retry-After"]) >= 1
    assert levels(client)["max_waiting"] == {"own": 2, "allowed": 2, "used": 2, "left": 0}

    first = taken[0].json()["id"]
    assert client.ask("POST", f"/api/v2/jobs/{first}/cancel").ok
    assert client.ask("POST", path, json=SUBMISSIONS[path](0)).status_code in (201, 202)


def test_a_crowd_is_taken_in_up_to_the_limit(api: Api) -> None:
    client = limited(api, max_waiting=5)
    with ThreadPoolExecutor(16) as pool:
        ask = lambda _: client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH}).status_code  # noqa: E731
        assert Counter(pool.map(ask, range(16))) == {201: 5, 429: 11}


def test_the_wait_is_that_of_the_forecast(api: Api) -> None:
    client = limited(api, max_waiting=1)
    body = {"workflow": {**GRAPH, "3": {**GRAPH["2"], "inputs": {**GRAPH["2"]["inputs"], "filename_prefix": "w"}}}}
    job_id = client.ask("POST", "/api/v2/jobs", json=body).json()["id"]

    def are_near() -> bool:
        refused = client.ask("POST", "/api/v2/jobs", json=body)
        starts_in_s = client.ask("GET", f"/api/v2/jobs/{job_id}").json()["queue"]["starts_in_s"]
        return bool(abs(int(refused.headers["Retry-After"]) - starts_in_s) <= max(3, starts_in_s / 2))

    # The forecast may be some seconds old, of before the job.
    until(are_near)


def test_what_was_taken_once_is_not_refused_at_the_limit(api: Api) -> None:
    client = limited(api, max_waiting=1)
    request = {"input": {"workflow_json": GRAPH, "request_id": "again"}}
    first = client.ask("POST", "/generate", json=request)
    again = client.ask("POST", "/generate", json=request)
    assert [first.status_code, again.status_code] == [202, 202]
    assert again.json()["id"] == first.json()["id"]

    other = limited(api, max_waiting=1)
    key = {"Idempotency-Key": "once"}
    answers = [other.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH}, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 422]
    assert answers[1].json()["error"]["details"] == {"job_id": answers[0].json()["id"]}


def test_bytes_are_limited_for_uploads_and_then_for_jobs(api: Api) -> None:
    picture = png(1, (64, 64))
    client = limited(api, max_kept_bytes=2 * len(picture) + 10)
    first = client.uploaded(picture, "a.png")
    client.uploaded(picture + b"2", "b.png")

    for path, field, data in (
        ("/api/v2/assets", "file", {"file_path": "c.png"}),
        ("/upload/image", "file", {"name": "c.png"}),
    ):
        refused = client.ask("POST", path, files={field: ("c.png", picture + b"3")}, data=data)
        body = refused.json()["error"]
        assert (refused.status_code, body["code"], body["details"]["limit"]) == (429, "limit_reached", "max_kept_bytes")
        assert 0 < int(refused.headers["Retry-After"]) <= api.settings.retention_s
    known = {"hash": first["hash"], "file_path": "d.png"}
    assert client.ask("POST", "/api/v2/assets/from-hash", json=known).status_code == 429

    # There is room for something: a job is taken, and its outputs are stored though they are more.
    job_id = client.submitted()
    api.worker.run(job_id, picture)
    assert levels(client)["max_kept_bytes"]["used"] == 3 * len(picture) + 1
    assert levels(client)["max_kept_bytes"]["left"] == 0
    refused = refused_in_the_end(client, "/generate", {"input": {"workflow_json": GRAPH}})
    assert refused.json()["error"]["details"]["limit"] == "max_kept_bytes"

    assert client.ask("DELETE", f"/api/v2/jobs/{job_id}").ok
    assert client.ask("DELETE", f"/api/v2/assets/{first['id']}").ok
    client.uploaded(picture + b"3", "c.png")
    client.submitted()


def test_inputs_of_jobs_count(api: Api) -> None:
    client = limited(api, max_kept_bytes=100)
    uri = "data:image/png;base64,iVBORw0KGgo="
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": uri + "A" * 400}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    refused = client.ask("POST", "/custom_workflow", json={"workflow": graph})
    assert refused.status_code in (422, 429), refused.text
    assert api.ledger.room.kept_bytes(client.key.tenant) == 0


def test_gpu_seconds_of_a_day_are_limited(api: Api) -> None:
    client = limited(api, max_gpu_s_per_day=50)
    job_id = client.submitted()
    api.worker.run(job_id, png(2))
    tenant = api.ledger.jobs.get(job_id).tenant
    if now_ms() % DAY_MS < 120_000:
        pytest.skip("the day has just turned")
    with api.ledger.database.write() as transaction:
        transaction.usage.add(
            Owner(source=job_id, seq=999, tenant=tenant, key_id="", template="", gpu=""), run_ms=60_000
        )

    refused = refused_in_the_end(client, "/api/v2/jobs", {"workflow": GRAPH})
    assert refused.json()["error"]["details"]["limit"] == "max_gpu_s_per_day"
    left_s = (DAY_MS - now_ms() % DAY_MS) / 1000
    assert abs(int(refused.headers["Retry-After"]) - left_s) < 10
    level = levels(client)["max_gpu_s_per_day"]
    assert (level["own"], level["allowed"], level["left"]) == (50, 50, 0)
    assert 60 <= level["used"] < 70


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_waiting", "have no jobs that wait"),
        ("max_kept_bytes", "keep no files"),
        ("max_gpu_s_per_day", "use no GPU seconds"),
    ],
)
def test_of_a_limit_of_nothing_there_is_nothing_to_wait_for(api: Api, name: str, told: str) -> None:
    client = limited(api, **{name: 0})
    answers = [
        client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH}),
        client.ask("POST", "/api/v2/batches", json={"workflow": GRAPH, "over": {"1.color": "1..3"}}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["details"]["limit"]) == (429, name)
        assert "Retry-After" not in answer.headers
        message = answer.json()["error"]["message"]
        assert (
            message
            == f"This tenant may {told}: its {name} is 0. Waiting does not help; an operator can raise the limit."
        )


def test_files_that_never_fit_are_told_so(api: Api) -> None:
    client = limited(api, max_kept_bytes=100)
    client.uploaded(b"x" * 50, "a.bin")
    never, later = (
        client.ask("POST", "/api/v2/assets", files={"file": b"y" * size}, data={"file_path": "b.bin"})
        for size in (101, 60)
    )
    assert (never.status_code, never.headers.get("Retry-After")) == (429, None)
    assert "101 bytes are more than this tenant may ever keep, 100." in never.text
    assert later.status_code == 429
    assert int(later.headers["Retry-After"]) > 0


def test_a_batch_that_never_fits_is_told_so(api: Api) -> None:
    answer = limited(api, max_waiting=2).ask(
        "POST", "/api/v2/batches", json={"workflow": GRAPH, "over": {"1.color": "1..3"}}
    )
    assert (answer.status_code, answer.headers.get("Retry-After")) == (429, None)
    assert "3 jobs are more than may ever wait of this tenant, 2: submit fewer at once." in answer.text


def test_where_no_job_begins_there_is_nothing_to_wait_for(api: Api) -> None:
    client = limited(api, max_waiting=1, max_running=0)
    waiting = client.ask("GET", f"/api/v2/jobs/{client.submitted()}").json()["queue"]
    assert (waiting["reason"], waiting["starts_in_s"]) == ("Its tenant may run no jobs: its max_running is 0.", None)
    answer = client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH})
    assert (answer.status_code, answer.headers.get("Retry-After")) == (429, None)
    assert "None of them will: max_running is 0" in answer.text


def test_a_tenant_that_may_make_no_requests_is_told_so(api: Api) -> None:
    answer = limited(api, max_requests_per_minute=0).ask("GET", "/api/v2/limits")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (429, None)
    assert "This tenant may make no requests: its max_requests_per_minute is 0." in answer.text
    assert answer.headers["RateLimit"] == '"requests";r=0'


def test_limits_and_usage_tell_the_same_bytes(api: Api) -> None:
    client = limited(api, max_kept_bytes=10**9)
    content = png(3)
    first = client.uploaded(content, "a.png")
    # Equal bytes lie there once, and count for each record.
    client.uploaded(content, "b.png")
    job_id = client.submitted()
    api.worker.run(job_id, content, content)

    def told() -> tuple[int, int]:
        kept = client.ask("GET", "/api/v2/usage", params={"kept": "true"}).json()["kept"]
        return levels(client)["max_kept_bytes"]["used"], sum(each["bytes"] for each in kept)

    assert told() == (4 * len(content), 4 * len(content))
    assert client.ask("DELETE", f"/api/v2/assets/{first['id']}").ok
    assert told() == (3 * len(content), 3 * len(content))
    assert client.ask("DELETE", f"/api/v2/jobs/{job_id}").ok
    assert told() == (len(content), len(content))


def test_requests_are_limited_and_told_in_each_answer(api: Api) -> None:
    client = limited(api, max_requests_per_minute=4)
    while time.time() % 60 > 50:
        time.sleep(0.2)
    paths = ["/api/v2/jobs", "/queue-info", "/nothing/here", "/ping"]
    answers = [client.ask("GET", path) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200]
    assert [answer.headers["RateLimit-Policy"] for answer in answers] == ['"requests";q=4;w=60'] * 4
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=3", "r=2", "r=1", "r=0"]
    for path in ("/api/v2/jobs", "/result/x", "/task/x"):
        refused = client.ask("GET", path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        assert ("detail" in refused.json()) == (path != "/api/v2/jobs")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert client.ask("GET", "/health").status_code == 200


def test_a_tenant_without_limits_is_told_nothing(api: Api) -> None:
    client = limited(api)
    answer = client.ask("GET", "/api/v2/limits")
    assert not {"RateLimit", "RateLimit-Policy"} & set(answer.headers)
    assert answer.json()["tenant"] == client.key.tenant
    nothing = {"own": None, "allowed": None, "left": None}
    assert answer.json()["limits"] == {
        name: {**nothing, "used": None if name == "max_requests_per_minute" else 0} for name in LIMITS
    }


def test_nothing_at_all_is_no_limit_too_many(api: Api) -> None:
    client = limited(api, max_waiting=0)
    refused = client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH})
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, False)
    client = limited(api, max_requests_per_minute=0)
    refused = client.ask("GET", "/api/v2/jobs")
    assert (refused.status_code, "Retry-After" in refused.headers) == (429, False)


def test_limits_are_changed_while_their_tenant_asks(api: Api, admin: Client) -> None:
    client = limited(api, max_waiting=0)
    path = f"/api/v2/tenants/{client.key.tenant}"
    changed = admin.ask("PATCH", path, json={"max_waiting": 10, "max_kept_bytes": "unlimited"}).json()
    assert changed["limits"]["max_waiting"] == {"own": 10, "allowed": 10, "used": 0, "left": 10}
    assert changed["limits"]["max_kept_bytes"]["own"] == "unlimited"
    until(lambda: client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH}).status_code == 201, timeout_s=5)
    changed = admin.ask("PATCH", path, json={"max_waiting": None, "weight": 2}).json()
    assert (changed["weight"], changed["limits"]["max_waiting"]["own"]) == (2, None)
    assert changed["limits"]["max_kept_bytes"]["own"] == "unlimited", "what is not named stays"


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["-1", "NaN", "1e400", "99999999999999999999", '"many"', "true", "[]", '"-1"', "1.5"])
def test_what_is_no_limit_is_refused_and_named(api: Api, admin: Client, name: str, value: str) -> None:
    if (name, value) == ("max_gpu_s_per_day", "1.5"):
        return
    for method, path, more in (
        ("PATCH", "/api/v2/tenants/default", ""),
        ("POST", "/api/v2/tenants", '"name": "unmade", '),
    ):
        body = f'{{{more}"{name}": {value}}}'
        answer = admin.ask(method, path, data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), (body, answer.text)
        if answer.status_code == 422:
            assert name in answer.json()["error"]["message"]
    assert api.ledger.tenants.get("default").limits == TenantLimits()
    assert "unmade" not in [each.name for each in api.ledger.tenants.all()]


def test_changes_of_nothing_and_of_nobody_are_refused(admin: Client) -> None:
    assert "max_waiting" in admin.ask("PATCH", "/api/v2/tenants/default", json={}).json()["error"]["message"]
    unknown = admin.ask("PATCH", "/api/v2/tenants/default", json={"max_wating": 3})
    assert (unknown.status_code, "max_wating" in unknown.text) == (422, True)
    assert admin.ask("PATCH", "/api/v2/tenants/nobody", json={"max_waiting": 3}).status_code == 404


def test_two_hundred_tenants_are_listed_with_what_they_have(api: Api, admin: Client) -> None:
    known = {each.name for each in api.ledger.tenants.all()}
    for number in range(200 - len(known)):
        api.ledger.tenants.create(f"many-{number:03}", limits=TenantLimits(max_requests_per_minute=number))
    client = limited(api, max_waiting=3)
    client.submitted()

    began_s = time.monotonic()
    answer = admin.ask("GET", "/api/v2/tenants")
    took_s = time.monotonic() - began_s

    listed = {each["name"]: each["limits"] for each in answer.json()["tenants"]}
    assert len(listed) >= 200
    assert took_s < 10
    assert listed[client.key.tenant]["max_waiting"] == {"own": 3, "allowed": 3, "used": 1, "left": 2}
    assert listed["many-007"]["max_requests_per_minute"] == {"own": 7, "allowed": 7, "used": 0, "left": 7}
    assert json.dumps(listed)
