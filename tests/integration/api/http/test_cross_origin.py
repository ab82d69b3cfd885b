"""Pages of other sites that an operator lets in, and links to a job's events for what cannot send a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from core import links
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

PAGE, OTHER, KEY = "https://app.example.com", "https://evil.example.com", "page-key"


@pytest.fixture(scope="module", params=["with keys", "open"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    keys = (KEY,) if request.param == "with keys" else ()
    settings = settings_for(tmp_path_factory.mktemp("api"), api_keys=keys, cors_origins=(PAGE,))
    with running_api(settings) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        running.worker.come_up()
        yield running


def from_page(origin: str, **headers: str) -> dict[str, str]:
    """What a browser sends for a page's request."""
    return {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", **headers}


def preflight(api: Api, path: str, origin: str, method: str = "POST") -> requests.Response:
    asks = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return requests.options(api.url + path, headers=from_page(origin, **asks), timeout=5)


def test_a_page_that_is_let_in_may_ask_and_read(api: Api) -> None:
    told = preflight(api, "/api/v2/jobs", PAGE)
    assert told.ok
    assert told.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in told.headers["Access-Control-Allow-Methods"]
    allowed = told.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("authorization", "content-type", "idempotency-key", "last-event-id"))
    answer = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=from_page(PAGE))
    assert answer.status_code == 201, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/api/v2/jobs/none", "/nothing", "/v2/models/fleet/none/openapi.json"])
def test_it_reads_why_it_is_refused(api: Api, path: str) -> None:
    answer = api.get(path, headers=from_page(PAGE))
    assert answer.status_code == 404
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    if api.settings.api_keys:
        refused = requests.get(f"{api.url}/api/v2/jobs", headers=from_page(PAGE), timeout=5)
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, PAGE)


@pytest.mark.parametrize(
    "origin",
    [
        *(OTHER, "null", "", "https://app.example.com.evil.com", "https://app.example.com:444", f"{PAGE}/"),
        *("http://app.example.com", "https://APP.example.com", "https://app.example.com, https://evil.example.com"),
    ],
)
def test_nobody_else_is(api: Api, origin: str) -> None:
    told = preflight(api, "/api/v2/jobs", origin)
    assert not any(name.startswith("Access-Control-") for name in told.headers)
    answer = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=from_page(origin))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_link_opens_the_events_of_one_job(api: Api) -> None:
    job_id, other = api.submit(), api.submit()
    made = api.post(f"/api/v2/jobs/{job_id}/events-link", headers=from_page(PAGE))
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    url = made.json()["url"]
    assert KEY not in url
    api.worker.run(job_id, b"x")
    stream = requests.get(url, headers=from_page(PAGE), timeout=5)
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.headers["Access-Control-Allow-Origin"] == PAGE
    assert '"status": "succeeded"' in stream.text
    api.ledger.jobs.cancel(other)
    for wrong in (url.replace(job_id, other), url.replace("signature=", "signature=A")):
        assert requests.get(wrong, timeout=5).status_code == 403
    if api.settings.api_keys:
        query = url.partition("?")[2]
        for path in (f"/api/v2/jobs/{job_id}", f"/api/v2/jobs/{job_id}/logs", "/api/v2/jobs"):
            assert requests.get(f"{api.url}{path}?{query}", timeout=5).status_code == 401
        assert requests.post(f"{api.url}/api/v2/jobs/{job_id}/events-link", timeout=5).status_code == 401


def test_a_link_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = api.submit()
    monkeypatch.setattr(links, "EVENTS_MS", -1)
    url = api.post(f"/api/v2/jobs/{job_id}/events-link").json()["url"]
    answer = requests.get(url, timeout=5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "link_refused")
    api.ledger.jobs.cancel(job_id)


def test_a_link_to_a_file_is_none_to_events(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"x")
    [output] = api.get(f"/api/v2/jobs/{job_id}").json()["outputs"]
    query = output["url"].partition("?")[2]
    assert requests.get(f"{api.url}/api/v2/jobs/{job_id}/events?{query}", timeout=5).status_code == 403
