"""The bytes of files over HTTP: validators, ranges, what may be kept, and links that need no key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import comfy_sdk
import httpx
import pytest
import requests

from core.links import EXPIRES, SIGNATURE
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.s3_server import S3Server
from tests.waiting import PATIENCE

KEY = "k-files"
CONTENT = bytes(range(256)) * 2000
CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    server.empty(BUCKET)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["directory", "bucket"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Api]:
    """Wherever the files are, clients see no difference."""
    storage: dict[str, Any] = bucket_settings(s3.url) if request.param == "bucket" else {}
    # A fleet with a bucket is not on one machine alone, whose own addresses anybody may name.
    settings = settings_for(tmp_path_factory.mktemp("api"), api_keys=(KEY,), allow_networks=("loopback",), **storage)
    with running_api(settings) as running:
        running.worker.come_up()
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="module")
def job(api: Api) -> dict[str, Any]:
    """A job with one output, in the words of Comfy API v2."""
    job_id = api.submit()
    api.worker.run(job_id, CONTENT)
    view: dict[str, Any] = api.get(f"/api/v2/jobs/{job_id}").json()
    return view


@pytest.fixture(scope="module")
def output(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["outputs"][0]
    return found


@pytest.fixture(params=["content", "download"])
def path(request: pytest.FixtureRequest, api: Api, output: dict[str, Any]) -> str:
    """Each of the routes that serve the file."""
    if request.param == "content":
        return f"/api/v2/assets/{output['id']}/content"
    return f"/download/{api.ledger.jobs.get(output['job_id']).outputs[0].storage_key}"


def test_the_hash_is_the_etag_and_what_is_known_is_not_sent_again(api: Api, path: str, output: dict[str, Any]) -> None:
    first = api.get(path)
    etag = f'"{output["hash"]}"'
    assert (first.status_code, first.headers["ETag"], first.content) == (200, etag, CONTENT)
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert first.headers["Content-Length"] == str(len(CONTENT))
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = api.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag), known
        assert again.headers["Cache-Control"] == "private, no-cache"
        # What is known need not be sent in part, either.
        part = api.get(path, headers={"If-None-Match": known, "Range": "bytes=0-1"})
        assert (part.status_code, part.content) == (304, b"")
    for unknown in ('"other"', '"blake3:"'):
        assert api.get(path, headers={"If-None-Match": unknown}).content == CONTENT


def test_a_broken_download_goes_on_if_the_file_is_the_same(api: Api, path: str, output: dict[str, Any]) -> None:
    etag = f'"{output["hash"]}"'
    rest = api.get(path, headers={"Range": "bytes=300000-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, CONTENT[300_000:])
    assert rest.headers["Content-Range"] == f"bytes 300000-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert rest.headers["ETag"] == etag
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"):
        whole = api.get(path, headers={"Range": "bytes=300000-", "If-Range": other})
        assert (whole.status_code, whole.content) == (200, CONTENT), other
        assert "Content-Range" not in whole.headers


def test_a_range_begins_and_ends_where_it_says(api: Api, path: str) -> None:
    for first, last in ((0, 0), (1, 131_071), (131_072, 262_143), (131_071, 131_073), (5, 400_000)):
        answer = api.get(path, headers={"Range": f"bytes={first}-{last}"})
        assert (answer.status_code, answer.content) == (206, CONTENT[first : last + 1]), (first, last)
        assert answer.headers["Content-Length"] == str(last + 1 - first)


def test_another_file_than_the_one_meant_is_not_sent(api: Api, path: str, output: dict[str, Any]) -> None:
    assert api.get(path, headers={"If-Match": f'"{output["hash"]}"'}).content == CONTENT
    assert api.get(path, headers={"If-Match": "*"}).content == CONTENT
    for extra in ({}, {"Range": "bytes=0-1"}):
        refused = api.get(path, headers={"If-Match": '"other"', **extra})
        assert (refused.status_code, refused.json()["error"]["code"]) == (412, "precondition_failed")


def test_head_says_all_of_it_and_sends_none(api: Api, path: str, output: dict[str, Any]) -> None:
    url, etag = api.url + path, f'"{output["hash"]}"'
    head = api.session.head(url, headers={"Range": "bytes=0-1"}, timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    assert (head.headers["ETag"], head.headers["Content-Length"]) == (etag, str(len(CONTENT)))
    assert head.headers["Accept-Ranges"] == "bytes"
    assert api.session.head(url, headers={"If-None-Match": etag}, timeout=5).status_code == 304


def test_no_answer_leaves_the_file_open(api: Api, path: str, output: dict[str, Any]) -> None:
    def held() -> int:
        return sum(output["job_id"] in name for name in _open_files())

    before = held()
    for headers in (
        {"If-None-Match": "*"},
        {"If-Match": '"other"'},
        {"Range": "bytes=9-1"},
        {"Range": "bytes=0-9"},
        {},
    ):
        api.get(path, headers=headers)
        api.session.head(api.url + path, headers=headers, timeout=5)
    deadline = time.monotonic() + 10 * PATIENCE
    while held() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held() == before


def _open_files() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return found


def test_an_empty_file_has_no_range(api: Api) -> None:
    job_id = api.submit()
    api.worker.run(job_id, b"")
    asset_id = api.ledger.jobs.get(job_id).outputs[0].id

    answer = api.get(f"/api/v2/assets/{asset_id}/content", headers={"Range": "bytes=0-"})

    assert (answer.status_code, answer.content) == (200, b"")


def test_the_links_of_answers_need_no_key(api: Api, job: dict[str, Any], output: dict[str, Any]) -> None:
    result = api.get(f"/result/{job['id']}").json()["output"][0]["url"]
    asset = api.get(f"/api/v2/assets/{output['id']}").json()["url"]
    listed = api.get("/api/v2/jobs?status=succeeded").json()["jobs"]
    urls = [output["url"], result, asset, next(each for each in listed if each["id"] == job["id"])["outputs"][0]["url"]]
    for url in urls:
        got = requests.get(url, timeout=5)
        assert (got.status_code, got.content) == (200, CONTENT)
        assert got.headers["ETag"] == f'"{output["hash"]}"'
        kept = got.headers["Cache-Control"]
        assert kept.startswith("private, max-age=")
        assert kept.endswith(", immutable")
        part = requests.get(url, headers={"Range": "bytes=1-2"}, timeout=5)
        assert (part.status_code, part.content) == (206, CONTENT[1:3])
        assert requests.head(url, timeout=5).status_code == 200
    assert requests.get(output["url"].partition("?")[0], timeout=5).status_code == 401


def test_a_link_opens_one_file_and_nothing_else(api: Api, output: dict[str, Any]) -> None:
    parts = urlsplit(output["url"])
    base, query = f"{parts.scheme}://{parts.netloc}", parts.query
    other_id = api.submit()
    api.worker.run(other_id, b"another")
    other = api.ledger.jobs.get(other_id).outputs[0].id
    for way in (f"/api/v2/assets/{other}/content", f"/api/v2/assets/{output['id']}x/content"):
        refused = requests.get(f"{base}{way}?{query}", timeout=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "link_refused")
    for method, way in (
        ("GET", f"/api/v2/assets/{output['id']}"),
        ("DELETE", f"/api/v2/assets/{output['id']}"),
        ("GET", f"/api/v2/jobs/{output['job_id']}"),
        ("GET", "/api/v2/jobs"),
        ("GET", f"/download/{api.ledger.jobs.get(output['job_id']).outputs[0].storage_key}"),
        ("POST", "/api/v2/jobs"),
    ):
        assert requests.request(method, f"{base}{way}?{query}", timeout=5).status_code == 401, (method, way)
    for method in ("POST", "PUT", "DELETE"):
        assert requests.request(method, output["url"], timeout=5).status_code in (401, 405)
    # And `/ready` does not take whoever has one for somebody with a key.
    assert set(requests.get(f"{base}/ready?{query}", timeout=5).json()) == {"ready"}


def test_a_link_that_was_changed_is_refused_unless_there_is_a_key(api: Api, output: dict[str, Any]) -> None:
    plain, _, query = output["url"].partition("?")
    end, signature = (parse_qs(query)[name][0] for name in (EXPIRES, SIGNATURE))
    for changed in (
        f"{EXPIRES}={int(end) + 1000}&{SIGNATURE}={signature}",
        f"{EXPIRES}={end}&{SIGNATURE}={signature[:-2]}",
        f"{SIGNATURE}={signature}",
        f"{EXPIRES}={end}&{SIGNATURE}=%ff%00",
        f"{EXPIRES}=x&{SIGNATURE}={signature}",
    ):
        refused = requests.get(f"{plain}?{changed}", timeout=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "link_refused"), changed
        assert api.session.get(f"{plain}?{changed}", timeout=5).content == CONTENT


def test_a_link_ends(api: Api, output: dict[str, Any]) -> None:
    plain = output["url"].partition("?")[0]
    end_ms = int(time.time() * 1000) - 1
    late = f"{plain}?{EXPIRES}={end_ms}&{SIGNATURE}={api.ledger.links.sign(output['id'], end_ms)}"

    refused = requests.get(late, timeout=5)

    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "link_refused")
    assert "ended" in refused.json()["error"]["message"]


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["open", "keyed"])
def test_a_picture_on_another_site_and_a_click_there_work_and_nothing_more(
    keys: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=keys)) as api:
        api.worker.come_up()
        headers = {"Authorization": f"Bearer {KEY}"}
        job_id = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=headers).json()["id"]
        api.worker.run(job_id, CONTENT)
        url = api.get(f"/api/v2/jobs/{job_id}", headers=headers).json()["outputs"][0]["url"]
        click = CROSS_SITE | {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        for sent in (CROSS_SITE, click, click | {"Origin": "https://evil.example"}):
            shown = requests.get(url, headers=sent, timeout=5)
            assert (shown.content, shown.headers["Cross-Origin-Resource-Policy"]) == (CONTENT, "cross-origin")
        page = requests.get(f"{api.url}/docs", headers=click, timeout=5)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")

        plain = url.partition("?")[0]
        for method, to, sent in (
            ("GET", plain, CROSS_SITE),
            ("GET", plain, click),
            ("GET", f"{plain}?{SIGNATURE}=x", click),
            ("GET", f"{api.url}/api/v2/jobs", click),
            ("GET", f"{api.url}/ready", CROSS_SITE),
            ("GET", f"{api.url}/openapi.json", CROSS_SITE),
            ("GET", f"{api.url}/docs", CROSS_SITE),
            ("POST", f"{api.url}/docs", click),
            ("POST", f"{api.url}/api/v2/jobs", click),
            ("POST", f"{api.url}/api/v2/jobs/{job_id}/cancel", click),
        ):
            refused = requests.request(method, to, headers=sent | headers, timeout=5)
            wanted = "link_refused" if SIGNATURE in to and not keys else "forbidden_origin"
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, wanted), (method, to)


@pytest.mark.parametrize("contract", ["v2", "generate"])
def test_links_in_webhooks_need_no_key(api: Api, contract: str) -> None:
    hook = "http://127.0.0.1:9/hook"
    path, body = {
        "v2": ("/api/v2/jobs", {"workflow": GRAPH, "webhook": {"url": hook, "events": ["job.completed"]}}),
        "generate": ("/generate", {"input": {"workflow_json": GRAPH, "webhook": {"url": hook}}}),
    }[contract]
    answer = api.post(path, body)
    assert answer.status_code in (201, 202), answer.text
    job_id = answer.json()["id"]
    api.worker.run(job_id, CONTENT)

    (post,) = api.ledger.outbox.take([due.id for due in api.ledger.outbox.due(job_ids=[job_id])])

    told = json.loads(post.body)
    url = told["data"]["outputs"][0]["url"] if contract == "v2" else told["output"][0]["url"]
    assert url.startswith(api.url)
    assert requests.get(url, timeout=5).content == CONTENT


def test_the_official_client_hands_links_on(api: Api, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", api.url)
    with comfy_sdk.Comfy(api_key=KEY) as client:
        (output,) = client.jobs.get(job["id"]).get_outputs("2")
        link = output.get_download_url()
        assert output.to_bytes() == CONTENT
        asset = client.assets.from_bytes(b"hello", filename="a.txt", content_type="text/plain")
        uploaded = asset.get_download_url()
    assert httpx.get(link.url).content == CONTENT
    assert httpx.get(uploaded.url).content == b"hello"
    # Whoever does not follow gets bytes, as ever.
    plain = f"{api.url}/api/v2/assets/{job['outputs'][0]['id']}/content"
    answer = api.session.get(plain, allow_redirects=False, timeout=5)
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.fixture(scope="module")
def redirecting(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Api]:
    """A server that sends links on to its bucket."""
    settings = settings_for(
        tmp_path_factory.mktemp("api"),
        api_keys=(KEY,),
        storage_redirect=True,
        **{**bucket_settings(s3.url), "storage_url": f"s3://{BUCKET}/redirecting"},
    )
    with running_api(settings) as running:
        running.worker.come_up()
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="module")
def in_bucket(redirecting: Api) -> dict[str, Any]:
    job_id = redirecting.submit()
    redirecting.worker.run(job_id, CONTENT)
    found: dict[str, Any] = redirecting.get(f"/api/v2/jobs/{job_id}").json()["outputs"][0]
    return found


def test_a_link_leads_on_to_the_bucket(redirecting: Api, in_bucket: dict[str, Any], s3: S3Server) -> None:
    first = requests.get(in_bucket["url"], timeout=5, allow_redirects=False)
    assert (first.status_code, first.content, first.headers["Cache-Control"]) == (302, b"", "no-store")
    assert first.headers["Location"].startswith(f"{s3.url}/{BUCKET}/redirecting/outputs/{in_bucket['job_id']}/")

    whole = requests.get(in_bucket["url"], timeout=5)
    part = requests.get(in_bucket["url"], headers={"Range": "bytes=5-9"}, timeout=5)

    assert whole.content == CONTENT
    assert whole.headers["Content-Type"] == "image/png"
    assert whole.headers["Content-Disposition"].startswith("inline; filename=")
    assert (part.status_code, part.content) == (206, CONTENT[5:10])


@pytest.mark.parametrize(
    "headers", [{"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer other"}, {"If-None-Match": '"other"'}]
)
def test_who_may_send_more_than_the_bucket_takes_is_answered_here(
    redirecting: Api, in_bucket: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = requests.get(in_bucket["url"], headers=headers, timeout=5, allow_redirects=False)

    assert (answer.status_code, answer.content) == (200, CONTENT)


def test_a_download_goes_on_where_it_was_only_if_it_is_the_same_file(
    redirecting: Api, in_bucket: dict[str, Any]
) -> None:
    part = {"Range": "bytes=5-9"}
    same = requests.get(in_bucket["url"], headers={**part, "If-Range": f'"{in_bucket["hash"]}"'}, timeout=5)
    other = requests.get(in_bucket["url"], headers={**part, "If-Range": '"other"'}, timeout=5)

    assert (same.status_code, same.content) == (206, CONTENT[5:10])
    assert len(same.history) == 1
    assert (other.status_code, other.content, other.history) == (200, CONTENT, [])


def test_what_is_known_is_told_without_the_bucket(redirecting: Api, in_bucket: dict[str, Any]) -> None:
    answer = requests.get(in_bucket["url"], headers={"If-None-Match": f'"{in_bucket["hash"]}"'}, timeout=5)
    assert (answer.status_code, answer.content) == (304, b"")
    head = requests.head(in_bucket["url"], timeout=5, allow_redirects=False)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))


def test_the_official_client_follows_into_the_bucket(
    redirecting: Api, in_bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", redirecting.url)
    with comfy_sdk.Comfy(api_key=KEY) as client:
        (output,) = client.jobs.get(in_bucket["job_id"]).get_outputs("2")
        link = output.get_download_url()
        assert output.to_bytes() == CONTENT

    assert httpx.get(link.url, follow_redirects=True).content == CONTENT
