"""Every answer is as the OpenAPI document says: each route, asked well and badly, and jobs in every state."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from itertools import count
from posixpath import normpath
from typing import Any

import pytest
import requests

from core.ledger.claims import Claim
from core.records.job_error import JobError
from core.records.progress import Progress
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.schemas import Document, spoiled
from tests.simulator_process import simulator

pytestmark = pytest.mark.slow

#: Bodies that are tried at each route that takes one.
BODIES = 10
KEY = "a-key"
NOWHERE = "00000000-0000-0000-0000-000000000000"
ODD_IDS = ("none", NOWHERE, "..", "%00", "a%2Fb", "x" * 300, "%F0%9F%98%80")
HEADERS: tuple[dict[str, str], ...] = (
    {"Host": "evil.example"},
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Accept": "application/json"},
    {"Accept": "image/png"},
    {"Range": "bytes=0-1"},
    {"Range": "bytes=999-"},
    {"Range": "bytes=x"},
    {"If-None-Match": "*"},
    {"If-Match": '"x"'},
    {"If-Modified-Since": "Fri, 31 Feb 2026 00:00:00 GMT"},
    {"Idempotency-Key": ""},
    {"Idempotency-Key": "once"},
    {"Last-Event-ID": "x"},
    {"X-Return-Outputs-As-Base64": "1", "X-Include-ComfyUI-Response": "1"},
)
QUERIES: tuple[str, ...] = (
    "limit=0",
    "limit=x",
    "limit=1",
    "cursor=x",
    "status=nope",
    "status=queued,failed",
    "metadata[a]=b",
    "metadata[]=b",
)
QUERIES += ("state=dead", "state=nope", "older_than=x", "state=dead&older_than=0", "job_id=%00", "after=1", "after=x")
QUERIES += (
    "template=sd3",
    "error=memory",
    "error=%00",
    "id_prefix=0",
    "id_prefix=%00",
    "created_after=x",
    "created_before=2026-11-22T00:00:00Z",
)
QUERIES += ("expires=1&signature=x", "download=1")


class Mill:
    """Ends whatever waits, in one way after the other."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._numbers = count()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.02):
            claim = self._api.ledger.claims.claim("gpu0@test")
            if claim is not None:
                end(self._api, claim, next(self._numbers))


def end(api: Api, claim: Claim, number: int) -> None:
    """One of the ways in which jobs end."""
    claims = api.ledger.claims
    claims.progress(claim, Progress(value=0.5, nodes_done=1, nodes_total=2, current_node="1", step=1, steps=2))
    error = {"code": "node_execution_error", "message": "no", "node_id": "1", "class_type": "A", "traceback": "line"}
    ways: list[Callable[[], object]] = [
        lambda: api.worker.finish(claim, png(1), b"text", names=("a.png", "b.txt")),
        lambda: claims.fail(claim, JobError(**error)),
        lambda: claims.fail(claim, JobError(code="poison", message="lost")),
        lambda: api.worker.finish(claim, names=()),
        lambda: claims.canceled(claim),
        lambda: api.ledger.requeue.release(claim, reason="lost", code="stuck"),
    ]
    ways[number % len(ways)]()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    settings = settings_for(
        tmp_path_factory.mktemp("api"), comfy_model="sd3", max_body_bytes=100_000, max_upload_bytes=100_000
    )
    with running_api(settings) as running:
        running.worker.come_up(object_info=nodes)
        yield running


@pytest.fixture(scope="module")
def document(api: Api) -> Document:
    return Document(api.get("/openapi.json").json())


#: A stream that its reader ends.
ENDLESS = "/api/v2/events"


class Asker:
    """Asks, and collects what is not as described."""

    def __init__(self, api: Api, document: Document, *, key: str | None = None) -> None:
        self._api = api
        self._document = document
        self._key = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = requests.Session()
        self.problems: list[str] = []

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {**self._key, **options.pop("headers", {})}
        # Clients take out `..` before they ask: with it the events of a job become those of all.
        is_endless = normpath(path.partition("?")[0]) == ENDLESS
        url = self._api.url + path
        answer = self._session.request(method, url, headers=headers, timeout=30, stream=is_endless, **options)
        if is_endless and answer.ok:
            answer.close()
            return answer
        assert answer.status_code != 500 or answer.headers.get("Content-Type") == "application/json"
        self.problems += self._document.differences(answer)
        if "upstream_error" in answer.text:
            self.problems.append(f"{method} {path}: an internal error")
        return answer


@pytest.fixture
def ask(api: Api, document: Document) -> Iterator[Asker]:
    asker = Asker(api, document)
    yield asker
    found = sorted(set(asker.problems))
    assert found == [], "\n".join(found[:40])


@pytest.fixture(scope="module")
def jobs(api: Api) -> dict[str, str]:
    """A job in every state."""
    worker, ledger = api.worker, api.ledger
    found = {
        name: api.submit(metadata={"a": "b"}, webhook={"url": "https://example.com/", "secret": "s"}, priority=1)
        for name in (
            "done",
            "failed",
            "lost",
            "canceling",
            "running",
            "delivering",
            "canceled",
            "expired",
            "old",
            "queued",
        )
    }
    for number, name in ((0, "done"), (1, "failed"), (0, "old")):
        end(api, worker.claim(found[name]), number)
    ledger.requeue.release(worker.claim(found["lost"]), reason="lost", code="stuck")
    worker.claim(found["running"])
    worker.claim(found["canceling"])
    worker.ledger.claims.generated(worker.claim(found["delivering"]), [], outputs_reused=True)
    for name in ("canceling", "canceled"):
        api.post(f"/api/v2/jobs/{found[name]}/cancel")
    ledger.removal.files_removed([found["old"]])
    found["template"] = api.post("/workflows/sd3", {"parameters": {"prompt": "a"}}).json()["id"]
    named = {"input": {"workflow_json": GRAPH, "request_id": "named", "webhook": {"url": "https://example.com/"}}}
    found["named"] = api.post("/generate", named).json()["id"]
    return found


def test_jobs_in_every_state(ask: Asker, api: Api, jobs: dict[str, str]) -> None:
    for job_id in jobs.values():
        ask("GET", f"/api/v2/jobs/{job_id}")
        for part in ("workflow", "error", "deliveries", "logs"):
            ask("GET", f"/api/v2/jobs/{job_id}/{part}")
        ask("GET", f"/api/v2/jobs/{job_id}/events", headers={"Accept": "application/json"})
        for path in ("result", "task"):
            ask("GET", f"/{path}/{job_id}")
        full = {"X-Return-Outputs-As-Base64": "1", "X-Include-ComfyUI-Response": "1"}
        ask("GET", f"/result/{job_id}", headers=full)
    for name in ("done", "failed", "canceled", "old"):
        ask("GET", f"/api/v2/jobs/{jobs[name]}/events")
        ask("POST", f"/cancel/{jobs[name]}")
        ask("POST", f"/api/v2/jobs/{jobs[name]}/cancel")
    for path in (
        "/api/v2/jobs",
        "/webhooks/deliveries",
        "/queue-info",
        "/ready",
        "/health",
        "/workflows",
        "/ping",
        "/docs",
    ):
        ask("GET", path)
    ask("DELETE", f"/api/v2/jobs/{jobs['running']}")
    ended = api.submit(priority=9)
    api.worker.run(ended)
    ask("DELETE", f"/api/v2/jobs/{ended}")
    other = {"input": {"workflow_json": GRAPH, "request_id": "named"}}
    for path in ("/generate", "/generate/sync", "/generate/stream"):
        assert ask("POST", path, json=other).status_code == 409


def test_files(ask: Asker, api: Api, jobs: dict[str, str]) -> None:
    outputs = [output for name in ("done", "old") for output in api.ledger.jobs.get(jobs[name]).outputs]
    ids = [output.id for output in outputs]
    form = {"file_path": "a.png", "content_type": "image/png"}
    kept = ask("POST", "/api/v2/assets", data=form, files={"file": ("a.png", png(3))}).json()
    again = ask("POST", "/api/v2/assets", data=form, files={"file": ("a.png", png(3))}).json()
    ids += [kept["id"], again["id"]]
    for asset_id in [*ids, *ODD_IDS]:
        ask("GET", f"/api/v2/assets/{asset_id}")
        for headers in ({}, *HEADERS):
            ask("GET", f"/api/v2/assets/{asset_id}/content", headers=headers)
        ask("GET", f"/api/v2/assets/{asset_id}/content?expires=1&signature=x")
    for output in outputs:
        for headers in ({}, *HEADERS):
            ask("GET", f"/download/{output.storage_key}", headers=headers)
    for path in ("", "/", "/x", "/..%2fx", "/x/y", "/%00/a", "//etc/passwd"):
        ask("GET", f"/download{path}")
    ask("DELETE", f"/api/v2/assets/{ids[0]}")
    ask("DELETE", f"/api/v2/assets/{again['id']}")
    ask("DELETE", f"/api/v2/assets/{again['id']}")
    for digest in (kept["hash"], "blake3:" + "0" * 64, "x"):
        ask("HEAD", f"/api/v2/assets/by-hash/{digest}")
        ask("POST", "/api/v2/assets/from-hash", json={"hash": digest, "expires_in": 60})
    for path in ("/api/v2/assets", "/upload/image"):
        forms: tuple[dict[str, Any], ...] = (
            {"data": {"file_path": "../a"}, "files": {"file": ("a.png", b"x")}},
            {"data": form | {"expected_hash": "blake3:" + "0" * 64}, "files": {"file": ("a.png", png(3))}},
            {"data": form | {"expires_in": "1"}, "files": {"file": ("a.png", png(3))}},
            {"data": form, "files": {"file": ("a.png", b"x" * 900_000)}},
            {"data": form, "files": {"file": ("a.png", b"")}},
            {"data": form},
            {"json": {}},
            {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            {"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}},
            {"files": {"file": ("a.png", png(4))}},
            {"files": {"file": ("a.png", b"<html>")}},
        )
        for form_sent in forms:
            ask("POST", path, **form_sent)


def test_odd_ids_headers_and_queries(ask: Asker, document: Document, jobs: dict[str, str]) -> None:
    for path, methods in document.paths.items():
        for method in methods:
            if "requestBody" in methods[method] and method == "post":
                continue
            for odd in ODD_IDS if "{" in path else ("",):
                ask(method.upper(), _filled(path, odd))
            if method != "get":
                continue
            known = jobs["done"] if "job" in path or "task" in path or "request" in path else "sd3"
            for headers in HEADERS:
                ask("GET", _filled(path, known), headers=headers)
            for query in QUERIES:
                ask("GET", f"{_filled(path, known)}?{query}")


def _filled(path: str, value: str) -> str:
    head, _, rest = path.partition("{")
    return path if not rest else head + value + _filled(rest.partition("}")[2], value)


def test_bodies_good_and_bad(ask: Asker, api: Api, document: Document, jobs: dict[str, str]) -> None:
    rng = random.Random(4711)
    mill = Mill(api)
    try:
        for path, methods in document.paths.items():
            content = methods.get("post", {}).get("requestBody", {}).get("content", {})
            # A first key would have this server ask for keys, as the document does not say yet.
            if "application/json" not in content or path == "/api/v2/keys":
                continue
            urls = [_filled(path, "sd3"), _filled(path, jobs["done"])]
            if any(each["name"] == "dry_run" for each in methods["post"].get("parameters", ())):
                urls += [f"{urls[0]}?dry_run=true", f"{urls[0]}?dry_run=maybe"]
            for url in dict.fromkeys(urls):
                _try_bodies(ask, document, url, content["application/json"]["schema"], rng)
    finally:
        mill.stop()


def _try_bodies(ask: Asker, document: Document, url: str, schema: dict[str, Any], rng: random.Random) -> None:
    json_type = {"Content-Type": "application/json"}
    for number in range(BODIES):
        body = document.sample(schema, rng)
        for _ in range(number % 3):
            body = spoiled(body, rng)
        ask("POST", url, json=body)
    example = document.sample(schema, rng)
    for headers in HEADERS:
        ask("POST", url, json=example, headers=headers)
    for text in (b"", b"[", b"[1]", b"5", b"nul", b"\xff", b'{"a": NaN}', b"[" * 70 + b"]" * 70, b" " * 200_000):
        ask("POST", url, data=text, headers=json_type)
    ask("POST", url, data=b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"})
    ask("POST", url, data=b"{}", headers={**json_type, "Content-Encoding": "gzip"})
    ask("POST", url)


def test_comfyui(ask: Asker, jobs: dict[str, str]) -> None:
    """ComfyUI's own protocol, whose bodies the document does not describe."""
    for graph in (GRAPH, {}, {"1": {"class_type": "Nope", "inputs": {}}}):
        ask("POST", "/comfyui/prompt", json={"prompt": graph})
    for path in ("prompt", "queue", "history", "interrupt", "api/jobs/cancel", "settings", "settings/x", "userdata/x"):
        for body in (
            b"{}",
            b"[",
            b"",
            b"[1]",
            b'{"delete": 5, "job_ids": 5}',
            b"[" * 70 + b"]" * 70,
            b" " * 200_000,
        ):
            ask("POST", f"/comfyui/{path}", data=body)
        ask("POST", f"/comfyui/{path}", data=b"{}", headers={"Content-Encoding": "gzip"})
    for name in jobs.values():
        for path in ("history", "api/jobs"):
            ask("GET", f"/comfyui/{path}/{name}")
    ask("POST", f"/comfyui/api/jobs/{jobs['done']}/cancel")
    ask("POST", "/comfyui/free")
    outputs = ask("GET", f"/comfyui/history/{jobs['done']}").json()[jobs["done"]]["outputs"]
    [output] = outputs.values()
    for headers in ({}, *HEADERS):
        ask("GET", "/comfyui/view", params=output["images"][0], headers=headers)
    for route in ("image", "mask"):
        for content in (png(3), b"x" * 900_000):
            reference = json.dumps({"filename": "a.png", "type": "input"})
            ask(
                "POST",
                f"/comfyui/upload/{route}",
                data={"original_ref": reference},
                files={"image": ("a.png", content)},
            )
        ask("POST", f"/comfyui/upload/{route}", data={"original_ref": "{}"}, files={"other": ("a.png", png(3))})
        ask("POST", f"/comfyui/upload/{route}", json={})
    for query in ("", "?overwrite=false", "?full_info=true"):
        ask("POST", f"/comfyui/userdata/kept/a{query}", data=b"x")
        ask("POST", f"/comfyui/userdata/kept/a/move/kept/b{query}")
        ask("POST", f"/comfyui/userdata/kept/a{query}", data=b"x")
    ask("GET", "/comfyui/userdata?dir=kept")
    ask("GET", "/comfyui/userdata/kept/b")
    ask("DELETE", "/comfyui/userdata/kept/b")
    ask("GET", "/comfyui/models/checkpoints")


def test_ends_that_are_waited_for(ask: Asker, api: Api) -> None:
    mill = Mill(api)
    try:
        values = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 1}
        for number in range(8):
            wanted = {
                "input": {"workflow_json": GRAPH, "request_id": f"waited-{number}", "return_outputs_as_base64": True}
            }
            ask("POST", "/generate/sync", json=wanted)
            ask("POST", "/generate/sync", json=wanted | {"expected_time": 3})
            ask("POST", "/prompt", json=values)
            ask("POST", "/generate/stream", json={"input": {"workflow_json": GRAPH}})
        ask("POST", "/prompt", json={"prompt": "a"})
    finally:
        mill.stop()


def test_deliveries(ask: Asker, api: Api, jobs: dict[str, str]) -> None:
    for delivery in api.ledger.deliveries.page(limit=10):
        ask("GET", f"/webhooks/deliveries/{delivery.id}")
        ask("POST", f"/webhooks/deliveries/{delivery.id}/replay")
        ask("POST", f"/webhooks/deliveries/{delivery.id}/replay", json={"secret": 5})
        ask("POST", f"/webhooks/deliveries/{delivery.id}/replay", json={"secret": "s", "headers": {"X-A": "b"}})
    for query in ("", "state=dead", "state=pending", "state=delivered&older_than=1", "state=dead&older_than=-1"):
        ask("DELETE", f"/webhooks/deliveries?{query}")


def test_pools(ask: Asker) -> None:
    for headers in HEADERS:
        ask("GET", "/api/v2/autoscale", headers=headers)
        ask("GET", "/api/v2/autoscale/-", headers=headers)
        ask("POST", "/api/v2/autoscale/-/scale-in?hosts=0", headers=headers)
    for pool in ("nobody", "%00"):
        ask("GET", f"/api/v2/autoscale/{pool}")
        ask("POST", f"/api/v2/autoscale/{pool}/scale-in")
    for hosts in ("", "x", "-1", "65", "1"):
        ask("POST", f"/api/v2/autoscale/-/scale-in?hosts={hosts}")


def test_a_full_queue_no_gpu_and_no_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    body = {"input": {"workflow_json": GRAPH}}
    posts: list[tuple[str, Any]] = [
        ("/api/v2/jobs", {"workflow": GRAPH}),
        ("/generate", body),
        ("/generate/sync", body),
        ("/generate/stream", body),
        ("/custom_workflow", {"workflow": GRAPH}),
        ("/workflows/sd3", {"parameters": {"prompt": "a"}}),
        ("/prompt", {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 1}),
    ]
    problems: list[str] = []
    for settings in ({}, {"max_queued": 1}, {"api_keys": (KEY,)}):
        with running_api(settings_for(tmp_path_factory.mktemp("odd"), comfy_model="sd3", **settings)) as odd:
            document = Document(odd.get("/openapi.json").json())
            key = KEY if "api_keys" in settings else None
            for asker in (Asker(odd, document), Asker(odd, document, key=key)):
                if settings:
                    odd.worker.come_up()
                for path, value in posts:
                    if (
                        settings
                        and path in ("/generate/sync", "/generate/stream", "/prompt")
                        and "max_queued" not in settings
                    ):
                        continue
                    asker("POST", path, json=value)
                for path, methods in document.paths.items():
                    for method in methods:
                        if method in ("get", "head", "delete"):
                            asker(method.upper(), _filled(path, NOWHERE))
                problems += asker.problems
    assert sorted(set(problems)) == []


def test_every_route_refuses_pages_of_others_and_names_that_are_not_ours(ask: Asker, document: Document) -> None:
    for path, methods in document.paths.items():
        for method in methods:
            for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
                ask(method.upper(), _filled(path, NOWHERE), headers=headers)


def test_tenants_and_keys(ask: Asker) -> None:
    """Last of all that is asked: with the first key this server asks for one."""
    for name in ("default", "nobody", "%00"):
        for body in ({"weight": 2}, {"weight": 0}, {"weight": "x"}, {}):
            ask("PATCH", f"/api/v2/tenants/{name}", json=body)
    for headers in HEADERS:
        ask("PATCH", "/api/v2/tenants/default", json={"weight": 1}, headers=headers)
    for text in (b"[", b" " * 200_000):
        ask("PATCH", "/api/v2/tenants/default", data=text, headers={"Content-Type": "application/json"})
    ask("POST", "/api/v2/tenants", json={"name": "acme"})
    ask("POST", "/api/v2/tenants", json={"name": "acme"})
    wrongs: tuple[dict[str, Any], ...] = ({"tenant": "nobody"}, {"scopes": []}, {"scopes": ["fly"]}, {"ends_in_s": -1})
    for wrong in wrongs:
        ask("POST", "/api/v2/keys", json={"name": "x", "scopes": ["read"], **wrong})
    made = ask("POST", "/api/v2/keys", json={"name": "root", "scopes": ["admin"], "tenant": "acme"}).json()
    key = {"Authorization": f"Bearer {made['secret']}"}
    ask("GET", "/api/v2/keys", headers=key)
    ask("POST", f"/api/v2/keys/{made['id']}/rotate", json={"keep_s": 60}, headers=key)
    ask("POST", f"/api/v2/keys/{made['id']}/revoke", headers=key)


def test_what_was_tried_is_most_of_what_is_described(document: Document) -> None:
    """Runs last: the walk above must not become one past nearly everything."""
    described = {
        (method, path, int(status))
        for path, methods in document.paths.items()
        for method, operation in methods.items()
        for status in operation["responses"]
    }
    assert document.seen <= described
    # The rest takes a broken network, a full disk or the hand of an operator.
    assert len(document.seen) / len(described) > 0.6, sorted(described - document.seen)
