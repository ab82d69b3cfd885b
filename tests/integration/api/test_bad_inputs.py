"""Bodies, headers and graphs that must be refused: each with a 4xx in JSON, and nothing recorded."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from core.ledger.upgrade import migrate
from tests.integration.api_fixtures import Api, gunicorn_api, running_api, settings_for
from tests.makers import GRAPH

KEY = "the-key-of-a-client"
JSON = {"Content-Type": "application/json"}
LIMIT_BYTES = 1_000_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), max_body_bytes=LIMIT_BYTES)) as running:
        running.worker.come_up()
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = settings_for(tmp_path_factory.mktemp("guarded"), api_keys=(KEY, "another"))
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


@pytest.fixture(autouse=True)
def nothing_recorded(api: Api) -> Iterator[None]:
    before = len(api.ledger.jobs.page(limit=1000))
    yield
    assert len(api.ledger.jobs.page(limit=1000)) == before


def graph(**inputs: Any) -> dict[str, Any]:
    """A good graph but for the given inputs of its first node."""
    first = {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], **inputs}}
    return {**GRAPH, "1": first}


def loading(name: Any) -> dict[str, Any]:
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}
    return {"1": load, "2": save}


def refused(answer: requests.Response, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert "Traceback" not in answer.text
    return error


RAW_BODIES: dict[str, tuple[bytes, int]] = {
    "A01 brackets": (b"[" * 100_000 + b"]" * 100_000, 400),
    "A03 depth": (b'{"a":' * 900 + b"1" + b"}" * 900, 400),
    "A05 digits": (json.dumps({"workflow": GRAPH}).encode().replace(b'"color": 0', b'"color": ' + b"9" * 4000), 400),
    "A07 nan": (b'{"workflow": NaN}', 400),
    "A07 infinity": (b'{"workflow": -Infinity}', 400),
    "A09 surrogate": (b'{"workflow": "\\ud800"}', 400),
    "A11 bom": (b"\xef\xbb\xbf{}", 400),
    "A13 not utf-8": (b'{"workflow": "\xff"}', 400),
    "A15 empty": (b"", 400),
    "A15 blank": (b"   ", 400),
    "A15 object": (b"{}", 422),
    "twice": (b'{"workflow": {}, "workflow": {}}', 400),
    "array": (b"[]", 422),
    "scalar": (b"3", 422),
    "null": (b"null", 422),
    "A17 size": (b'{"x": "' + b"x" * LIMIT_BYTES + b'"}', 413),
    "A23 proto": (b'{"__proto__": {"workflow": {}}, "constructor": {}}', 422),
}


@pytest.mark.parametrize("path", ["/api/v2/jobs", "/generate", "/generate/sync"])
@pytest.mark.parametrize("name", RAW_BODIES)
def test_bodies(api: Api, path: str, name: str) -> None:
    body, status = RAW_BODIES[name]

    error = refused(api.post(path, data=body, headers=JSON), status)

    if status == 413:
        assert error["code"] == "payload_too_large"


def test_a_chunked_body_ends_at_the_limit(api: Api) -> None:
    parts = urlsplit(api.url)
    assert parts.hostname
    assert parts.port
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as client:
        client.sendall(
            b"POST /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(20):
            client.sendall(b"%x\r\n" % 60_000 + b" " * 60_000 + b"\r\n")
        answer = client.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-7"},
        {"Content-Type": "application/json; charset=bogus"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v2/jobs", "/generate/sync"])
def test_types_that_are_not_read(api: Api, path: str, headers: dict[str, str]) -> None:
    answer = api.post(path, data=json.dumps({"workflow": GRAPH}).encode(), headers=headers)

    assert refused(answer, 415)["code"] == "unsupported_media_type"


OTHER_SYSTEMS: dict[str, tuple[Any, str]] = {
    "ComfyUI": ({"prompt": GRAPH, "client_id": "abc"}, "in prompt: "),
    "RunPod": ({"input": {"workflow": GRAPH, "images": []}}, "in input.workflow: "),
    "a bare graph": (GRAPH, "is itself a graph: "),
    "a graph as text": ({"workflow_api": json.dumps(GRAPH)}, "not as text"),
    "the editor": ({"data": {"nodes": [], "links": []}}, "in data: "),
}
GRAPH_FIELDS = {"/api/v2/jobs": "workflow", "/generate": "input.workflow_json", "/custom_workflow": "workflow"}


@pytest.mark.parametrize("path", GRAPH_FIELDS)
@pytest.mark.parametrize("system", OTHER_SYSTEMS)
def test_bodies_of_other_systems_are_told_the_field(api: Api, path: str, system: str) -> None:
    body, says = OTHER_SYSTEMS[system]

    text = refused(api.post(path, body), 422)["message"]

    assert text.startswith(f"{GRAPH_FIELDS[path]} is missing. ")
    assert says in text


def test_a_graph_for_the_route_that_takes_texts_is_told_where_to_go(api: Api) -> None:
    assert "/custom_workflow" in refused(api.post("/prompt", {"prompt": GRAPH}), 422)["message"]


@pytest.mark.parametrize("workflow", [{"prompt": GRAPH}, {"workflow": GRAPH}, json.dumps(GRAPH)])
def test_a_graph_within_something_else_is_told_from_a_graph(api: Api, workflow: Any) -> None:
    error = refused(api.post("/api/v2/jobs", {"workflow": workflow}), 422)

    assert error["code"] == "invalid_workflow"
    assert "send" in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"workflow": "x"}, 422, "invalid_workflow"),
        ({"workflow": []}, 422, "invalid_workflow"),
        ({"workflow": {}}, 422, "invalid_workflow"),
        ({"workflow": {"nodes": [], "links": []}}, 422, "workflow_format_ui"),
        ({"webhook_url": "https://example.com"}, 422, "invalid_workflow"),
        ({"inputs": {}}, 422, "invalid_workflow"),
        ({"priority": True}, 422, "invalid_request"),
        ({"priority": 1.0}, 422, "invalid_request"),
        ({"priority": 1_000_001}, 422, "invalid_request"),
        ({"metadata": "x" * 1025}, 422, "invalid_request"),
        ({"metadata": "\u0000"}, 422, "invalid_request"),
        ({"metadata": ["x"]}, 422, "metadata_invalid"),
        ({"metadata": {str(n): "" for n in range(17)}}, 422, "metadata_invalid"),
        ({"metadata": {"a b": ""}}, 422, "metadata_invalid"),
        ({"metadata": {"": ""}}, 422, "metadata_invalid"),
        ({"metadata": {"a\n": ""}}, 422, "metadata_invalid"),
        ({"metadata": {"k" * 41: ""}}, 422, "metadata_invalid"),
        ({"metadata": {"a": 1}}, 422, "metadata_invalid"),
        ({"metadata": {"a": "é" * 129}}, 422, "metadata_invalid"),
        ({"metadata": {"a": "\u202e"}}, 422, "metadata_invalid"),
        ({"extra_data": []}, 400, "invalid_request"),
        ({"extra_data": {"api_key_comfy_org": None}}, 400, "invalid_request"),
        ({"extra_data": {"api_key_comfy_org": "k", "more": 1}}, 400, "invalid_request"),
        ({"extra_data": {"extra_pnginfo": []}}, 400, "invalid_request"),
        ({"extra_data": {"extra_pnginfo": None}}, 400, "invalid_request"),
    ],
)
def test_fields_of_a_submission(api: Api, fields: dict[str, Any], status: int, code: str) -> None:
    assert refused(api.post("/api/v2/jobs", {"workflow": GRAPH, **fields}), status)["code"] == code


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 10_000, "caf\u00e9"])
def test_idempotency_keys(api: Api, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}

    refused(api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=headers), 400)


@pytest.mark.parametrize(
    "workflow",
    [
        loading("../../etc/passwd"),
        loading("tenantB/x_00001_.png [output]"),
        loading("x.png [temp]"),
        loading("/proc/self/environ"),
        loading("/dev/zero"),
        loading("..\\..\\x"),
        loading("%2e%2e/x"),
        loading("x.png[output]"),
        loading("not-there.png"),
        loading("blake3:abc"),
        loading("asset:room.png"),
        loading(["1", 0]),
        {**GRAPH, "3": {"class_type": "LoadTrainingDataset", "inputs": {}}},
        {**GRAPH, "3": {"class_type": "LoadImageFromURL", "inputs": {}}},
        {**GRAPH, "3": {"class_type": "CheckpointSave", "inputs": {}}},
        {**GRAPH, "3": {"class_type": "Unknown", "inputs": {}}},
        {str(n): {"class_type": "ImageInvert", "inputs": {"image": [str(n + 1), 0]}} for n in range(2001)},
        {"2": GRAPH["2"]},
        {**GRAPH, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", -2], "filename_prefix": "a"}}},
        {**GRAPH, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 99], "filename_prefix": "a"}}},
        {**GRAPH, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", "0"], "filename_prefix": "a"}}},
        {**GRAPH, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 1.5], "filename_prefix": "a"}}},
        {"1": GRAPH["1"]},
        graph(width="wide"),
        graph(width=10**6),
    ],
    ids=lambda _: "",
)
@pytest.mark.parametrize("contract", ["v2", "generate"])
def test_graphs(api: Api, workflow: dict[str, Any], contract: str) -> None:
    if contract == "v2":
        answer = api.post("/api/v2/jobs", {"workflow": workflow})
    else:
        answer = api.post("/generate/sync", {"input": {"workflow_json": workflow}})

    error = refused(answer, 422)
    assert error["code"] == "invalid_workflow"
    assert "/root" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[broken"},
    ],
)
def test_pages_of_other_sites(api: Api, headers: dict[str, str]) -> None:
    answer = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=headers)

    assert refused(answer, 403)["code"] == "forbidden_origin"


def test_our_own_page_passes(api: Api) -> None:
    assert api.get("/api/v2/jobs", headers={"Origin": api.url}).status_code == 200
    named = {"Origin": "http://LocalHost:9", "Host": "LOCALHOST:9"}
    assert api.get("/api/v2/jobs", headers=named).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost.",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.nip.io",
        "localhost.evil.example",
        "evil.example",
        "192.0.2.1",
        "[2001:db8::1]",
    ],
)
@pytest.mark.parametrize("is_page", [True, False])
def test_an_open_server_goes_by_its_own_names(api: Api, host: str, is_page: bool) -> None:
    port = urlsplit(api.url).port
    # What a page of another site can send without asking: a form, and no header of its own.
    headers = {"Host": f"{host}:{port}"} | ({"Origin": f"http://{host}:{port}"} if is_page else {})
    answers = [
        api.post("/upload/image", files={"file": ("a.png", b"x")}, headers=headers),
        api.post("/api/v2/jobs/00000000-0000-0000-0000-000000000000/cancel", headers=headers),
        api.get("/api/v2/jobs", headers=headers),
    ]
    assert {refused(answer, 421)["code"] for answer in answers} == {"misdirected_request"}
    crossed = api.post("/upload/image", files={"file": ("a.png", b"x")}, headers=headers | {"Origin": "http://evil"})
    assert crossed.status_code in (403, 421)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.3.2.1", "[::1]", "[0:0::1]"]
)
def test_loopback_as_it_is_usually_written(api: Api, host: str) -> None:
    assert api.get("/api/v2/jobs", headers={"Host": f"{host}:8000"}).status_code == 200
    crossed = api.post("/api/v2/jobs", {"workflow": GRAPH}, headers={"Host": host, "Origin": "https://evil.example"})
    assert refused(crossed, 403)["code"] == "forbidden_origin"


def test_names_that_the_operator_adds(tmp_path: Path) -> None:
    names = {
        "public_url": "https://Fleet.example/",
        "allowed_hosts": ("Proxy.internal", "192.0.2.7", "2001:db8:0::7"),
        "api_host": "0.0.0.0",
    }
    with running_api(settings_for(tmp_path, **names)) as api:
        for host in (
            "fleet.example",
            "proxy.internal:99",
            "192.0.2.7",
            "[2001:DB8::7]:99",
            socket.gethostname(),
            f"{socket.gethostname()}.local",
        ):
            assert api.get("/queue-info", headers={"Host": host}).status_code == 200, host
        for host in ("0.0.0.0", "other.example", "192.0.2.8"):
            assert api.get("/queue-info", headers={"Host": host}).status_code == 421, host
        page = {"Host": "proxy.internal", "Origin": "https://fleet.example"}
        assert api.get("/queue-info", headers=page).status_code == 200


def test_the_address_that_a_request_came_in_by_is_a_name_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it only asks which of our addresses leads out.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = probe.getsockname()[0]
    with running_api(settings_for(tmp_path, api_host="0.0.0.0"), host="0.0.0.0") as api:
        port = urlsplit(api.url).port
        for url, host, status in (
            (f"http://{own}:{port}", f"{own}:{port}", 200),
            (f"http://127.0.0.1:{port}", f"{own}:{port}", 421),
            (f"http://{own}:{port}", f"0.0.0.0:{port}", 421),
        ):
            answer = requests.get(f"{url}/queue-info", headers={"Host": host}, timeout=5)
            assert answer.status_code == status, (url, host)


def test_a_served_api_listens_on_ipv6_too(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    settings = settings_for(tmp_path)
    migrate(settings)
    with gunicorn_api(settings, COMFYLINE_API_HOST="::") as url:
        port = urlsplit(url).port
        for host, status in (("127.0.0.1", 200), ("[::1]", 200), ("[::]", 421)):
            own = {"Host": f"{host}:{port}"}
            assert requests.get(f"http://[::1]:{port}/queue-info", headers=own, timeout=5).status_code == status, host


def test_with_keys_any_name_is_taken(guarded: Api) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    public = {"Origin": "https://app.example", "Host": "api.example"}
    assert guarded.get("/api/v2/jobs", headers=key | public).status_code == 200
    assert guarded.get("/api/v2/jobs", headers=key | {"Host": "0.0.0.0"}).status_code == 200
    assert guarded.get("/api/v2/jobs", headers=key | {"Origin": "https://app.example"}).status_code == 403


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY[:-1]}x", f"Bearer {KEY}, Bearer {KEY}"],
)
def test_without_a_key(guarded: Api, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in [("GET", "/api/v2/jobs"), ("POST", "/generate/sync"), ("HEAD", "/api/v2/assets/x/content")]:
        answer = guarded.session.request(method, guarded.url + path, headers=headers, timeout=5)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert refused(answer, 401)["code"] == "unauthorized"
    assert guarded.get(f"/api/v2/jobs?api_key={KEY}&token={KEY}").status_code == 401


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", "BEARER another"])
def test_with_a_key(guarded: Api, authorization: str) -> None:
    assert guarded.get("/api/v2/jobs", headers={"Authorization": authorization}).status_code == 200


def test_what_needs_no_key(guarded: Api) -> None:
    assert guarded.get("/health").json() == {"status": "healthy"}
    assert guarded.get("/api/v2/health").status_code == 200
    assert guarded.session.options(f"{guarded.url}/api/v2/jobs", timeout=5).status_code == 200
    assert set(guarded.get("/ready").json()) == {"ready"}, "names of hosts are for those who have a key"
    full = guarded.get("/ready", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert full["instances"][0]["kind"] == "SIMULATED"


def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(api: Api) -> None:
    # Parsing it would keep the process, and every client of it, waiting for seconds.
    body = b'{"workflow":[' + b"[]," * 300_000 + b"[]]}"

    # The server is in this process: what it computes counts, and not what others on this machine do.
    begun_s = time.process_time()
    error = refused(api.post("/api/v2/jobs", data=body, headers=JSON), 400)

    assert "values" in error["message"]
    assert time.process_time() - begun_s < 1.0


@pytest.mark.parametrize("request_id", [".", ".."])
def test_ids_that_clients_resolve_as_paths(api: Api, request_id: str) -> None:
    body = {"input": {"workflow_json": GRAPH, "request_id": request_id}}

    refused(api.post("/generate", body), 422)
