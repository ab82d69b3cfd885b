"""Keys and scopes over HTTP: both headers, each route's scope, and a revoked key that no API process lets in."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
import requests

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.access import SCOPES
from core.settings import Settings
from tests.integration.api_fixtures import Api, gunicorn_api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=("key-of-the-settings",))) as running:
        running.worker.come_up()
        yield running


def secret_of(api: Api, *scopes: str) -> str:
    return api.ledger.keys.create("default", name="x", scopes=scopes)[1]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("of", ["ledger", "settings"])
def test_either_header_takes_a_key(api: Api, of: str) -> None:
    secret = secret_of(api, "read") if of == "ledger" else "key-of-the-settings"
    for headers in (
        bearer(secret),
        {"X-API-Key": secret},
        {"X-API-Key": secret, "Authorization": "Basic dTpw"},
        {"X-API-Key": "wrong", **bearer(secret)},
    ):
        assert api.get("/api/v2/jobs", headers=headers).status_code == 200, headers


def test_a_wrong_one_opens_nothing(api: Api) -> None:
    secret = secret_of(api, "read")
    for headers in (
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": secret, **bearer("wrong")},
        bearer(f"{secret}x"),
        bearer(""),
        {"X-API-Key": ""},
    ):
        answer = api.get("/api/v2/jobs", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), headers
        assert "X-API-Key" in answer.json()["error"]["message"]


def test_each_route_needs_the_scope_that_the_document_names(api: Api) -> None:
    document = api.get("/openapi.json").json()
    secrets = {scope: secret_of(api, *(other for other in SCOPES if other != scope)) for scope in SCOPES}
    asked = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for [(_, scopes)] in ([*each.items()] for each in operation["security"][:1]):
                for scope in scopes:
                    url = path.replace("{", "").replace("}", "")
                    answer = requests.request(method, api.url + url, headers=bearer(secrets[scope]), timeout=10)
                    assert answer.status_code == 403, f"{method} {path}"
                    if method != "head":
                        # Other contracts have other words for it, in other places.
                        word = "forbidden" if path.startswith("/v2/models") else "missing_scope"
                        assert f'"{word}"' in answer.text
                        assert f"the scope {scope}," in answer.text
                    asked.add(scope)
    assert asked >= {"submit", "read", "cancel", "webhooks", "models", "operate"}


def test_routes_that_need_no_scope_are_few(api: Api) -> None:
    document = api.get("/openapi.json").json()
    without = {
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if not any(scopes for each in operation["security"] for scopes in each.values())
    }
    assert without == {
        # What the tenant of any key may have.
        "/api/v2/limits",
        # Any key: each of its tools needs a scope of its own.
        "/mcp",
        # The console, before its reader has signed in.
        *("/", "/console/{file}", "/api/v2/session"),
        *("/health", "/ready", "/api/v2/health", "/openapi.json", "/docs", "/webhooks/public-key", "/ping"),
    }


def test_what_a_key_has_the_scope_for_it_does(api: Api) -> None:
    api.worker.beat()
    submit, read, cancel = (bearer(secret_of(api, scope)) for scope in ("submit", "read", "cancel"))
    job_id = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=submit).json()["id"]
    assert api.get(f"/api/v2/jobs/{job_id}", headers=read).json()["status"] == "queued"
    assert api.post(f"/api/v2/jobs/{job_id}/cancel", headers=cancel).json()["status"] == "canceled"


def test_what_is_ready_is_told_to_operators(api: Api) -> None:
    assert "instances" in api.get("/ready", headers=bearer(secret_of(api, "operate"))).json()
    assert list(api.get("/ready", headers=bearer(secret_of(api, "read"))).json()) == ["ready"]
    assert list(api.get("/ready").json()) == ["ready"]


def test_by_whom_a_key_was_used_last_is_kept(api: Api) -> None:
    key, secret = api.ledger.keys.create("default", name="x", scopes=("read",))
    api.get("/api/v2/jobs", headers=bearer(secret))
    deadline = time.monotonic() + 20 * PATIENCE
    while api.ledger.keys.get(key.id).last_used_by != "127.0.0.1" and time.monotonic() < deadline:
        # Written at most every few seconds, with a use.
        api.get("/api/v2/jobs", headers=bearer(secret))
    assert api.ledger.keys.get(key.id).last_used_by == "127.0.0.1"


def test_the_first_key_closes_an_open_server(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("open"))) as running:
        assert running.get("/api/v2/jobs").status_code == 200
        assert {} in running.get("/openapi.json").json()["security"]
        assert running.get("/health", headers={"Host": "elsewhere.example"}).status_code == 421
        secret = secret_of(running, "read")
        deadline = time.monotonic() + 5 * PATIENCE
        while running.get("/api/v2/jobs").status_code == 200 and time.monotonic() < deadline:
            pass
        assert running.get("/api/v2/jobs").status_code == 401
        assert running.get("/api/v2/jobs", headers=bearer(secret)).status_code == 200
        assert {} not in running.get("/openapi.json").json()["security"]
        assert running.get("/health", headers={"Host": "elsewhere.example"}).status_code == 200


@pytest.fixture(params=["sqlite", "postgres"])
def both(request: pytest.FixtureRequest) -> Settings:
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    return settings


def test_a_revoked_key_is_refused_within_a_second_by_every_process(both: Settings) -> None:
    migrate(both)
    ledger = Ledger(both)
    key, secret = ledger.keys.create("default", name="x", scopes=("read",))
    path = f"/api/v2/jobs/{uuid.uuid4()}"

    def status(url: str) -> int:
        return requests.get(url + path, headers=bearer(secret), timeout=20).status_code

    with gunicorn_api(both) as first, gunicorn_api(both) as second:
        assert [status(url) for url in (first, second)] == [404, 404]
        ledger.keys.revoke(key.id)
        revoked_s = let_in_s = time.monotonic()
        left = {first, second}
        while left:
            for url in sorted(left):
                sent_s = time.monotonic()
                if status(url) == 401:
                    left.discard(url)
                else:
                    let_in_s = sent_s
            assert time.monotonic() < revoked_s + 20 * PATIENCE
        # However slow this machine is: nobody was let in who came later than that.
        assert let_in_s < revoked_s + 1.0
        assert [status(url) for url in (first, second)] == [401, 401]
    ledger.close()
