"""Signing in from a browser: what the cookie lets in, whom, and whose pages."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from api.contracts import session as session_route
from core.ledger.sealing import Sealer, load_keys
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

COOKIE = "comfyline_session"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=["operators-own-key"])) as running:
        running.worker.come_up()
        yield running


@pytest.fixture(scope="module")
def secret(api: Api) -> str:
    api.ledger.tenants.create("acme")
    return api.ledger.keys.create("acme", name="page", scopes=("submit", "read", "cancel"))[1]


def signed_in(api: Api, key: str) -> requests.Session:
    browser = requests.Session()
    answer = browser.post(f"{api.url}/api/v2/session", json={"key": key}, timeout=20)
    assert answer.status_code == 201, answer.text
    return browser


def ask(browser: requests.Session, api: Api, method: str, path: str, **options: Any) -> requests.Response:
    return browser.request(method, api.url + path, timeout=20, **options)


def test_who_has_not_signed_in_learns_that_a_key_is_needed(api: Api) -> None:
    view = api.get("/api/v2/session").json()
    assert view["asks_for_keys"] is True
    assert view["is_signed_in"] is False
    assert view["tenant"] is None
    assert view["scopes"] == []


def test_a_wrong_key_opens_nothing(api: Api) -> None:
    answer = api.post("/api/v2/session", {"key": "nonsense"})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("body", [{}, {"key": ""}, {"key": 7}, {"key": "x" * 600}, {"keys": "a"}])
def test_bodies_that_are_refused(api: Api, body: Any) -> None:
    assert api.post("/api/v2/session", body).status_code == 422


def test_the_cookie_is_the_key_and_no_script_can_read_it(api: Api, secret: str) -> None:
    browser = requests.Session()
    answer = browser.post(f"{api.url}/api/v2/session", json={"key": secret}, timeout=20)
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie
    assert secret not in cookie
    assert answer.headers["Cache-Control"] == "no-store"
    view = ask(browser, api, "GET", "/api/v2/session").json()
    assert (view["tenant"], view["is_signed_in"], view["sees_all"]) == ("acme", True, False)
    assert ask(browser, api, "GET", "/api/v2/jobs").status_code == 200
    assert ask(browser, api, "GET", "/api/v2/keys").status_code == 403


def test_signing_out_forgets_it(api: Api, secret: str) -> None:
    browser = signed_in(api, secret)
    assert ask(browser, api, "DELETE", "/api/v2/session").status_code == 403, "nobody knows whose page this was"
    same_page = {"Origin": api.url}
    assert ask(browser, api, "DELETE", "/api/v2/session", headers=same_page).status_code == 204
    assert COOKIE not in browser.cookies
    assert ask(browser, api, "GET", "/api/v2/jobs").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_pages_change_nothing_with_it(api: Api, secret: str, headers: dict[str, str]) -> None:
    browser = signed_in(api, secret)
    job_id = _submitted(api, secret)
    answer = ask(browser, api, "POST", f"/api/v2/jobs/{job_id}/cancel", headers=headers)
    assert answer.status_code == 403, answer.text
    assert answer.json()["error"]["code"] == "forbidden_origin"
    own = ask(browser, api, "POST", f"/api/v2/jobs/{job_id}/cancel", headers={"Origin": api.url})
    assert own.status_code == 200


def test_a_key_that_is_sent_on_purpose_goes_before_it(api: Api, secret: str) -> None:
    browser = signed_in(api, secret)
    as_operator = {"Authorization": "Bearer operators-own-key"}
    assert ask(browser, api, "GET", "/api/v2/session", headers=as_operator).json()["sees_all"] is True
    wrong = {"X-API-Key": "nonsense"}
    assert ask(browser, api, "GET", "/api/v2/jobs", headers=wrong).status_code == 401


def test_it_ends_with_its_key(api: Api) -> None:
    key, own = api.ledger.keys.create("acme", name="short", scopes=("read",))
    browser = signed_in(api, own)
    assert ask(browser, api, "GET", "/api/v2/jobs").status_code == 200
    api.ledger.keys.revoke(key.id)
    answers = (ask(browser, api, "GET", "/api/v2/jobs").status_code for _ in range(200))
    assert 401 in answers


def test_it_ends_by_itself(api: Api, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = api.ledger.sessions.seal(secret, ends_at_ms=1)
    answer = requests.get(f"{api.url}/api/v2/jobs", cookies={COOKIE: session}, timeout=20)
    assert answer.status_code == 401
    monkeypatch.setattr(session_route, "SESSION_S", 60)
    answer = requests.post(f"{api.url}/api/v2/session", json={"key": secret}, timeout=20)
    assert "Max-Age=60" in answer.headers["Set-Cookie"] or "Max-Age=59" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("session", ["", "x", "AAAA", "%00", "ä".encode().decode("latin-1"), "A" * 4000])
def test_cookies_that_are_none_of_ours_open_nothing(api: Api, session: str) -> None:
    answer = requests.get(f"{api.url}/api/v2/jobs", headers={"Cookie": f"{COOKIE}={session}"}, timeout=20)
    assert answer.status_code == 401


def test_something_else_that_was_sealed_is_no_session(api: Api, secret: str) -> None:
    sealer = Sealer(load_keys("", api.settings.data_dir))
    other = sealer.seal({"key": secret, "ends_at_ms": 2**60}, bound_to="job 1")
    cookies = {COOKIE: base64.urlsafe_b64encode(other).decode()}
    assert requests.get(f"{api.url}/api/v2/jobs", cookies=cookies, timeout=20).status_code == 401


def test_an_open_server_needs_no_session(tmp_path: Path) -> None:
    with running_api(settings_for(tmp_path)) as open_api:
        view = open_api.get("/api/v2/session").json()
        assert view["asks_for_keys"] is False
        assert view["is_signed_in"] is True
        assert open_api.post("/api/v2/session", {"key": "anything"}).status_code == 401


def _submitted(api: Api, secret: str) -> str:
    api.worker.beat()
    headers = {"Authorization": f"Bearer {secret}"}
    answer = requests.post(f"{api.url}/api/v2/jobs", json={"workflow": GRAPH}, headers=headers, timeout=20)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
