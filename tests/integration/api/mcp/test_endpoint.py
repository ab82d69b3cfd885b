"""The protocol itself, message by message: versions, headers, errors, and who is let in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS

from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH

KEY = "mcp-key"
MODERN = KNOWN_PROTOCOL_VERSIONS[-1]
ENVELOPE = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
LIMIT_BYTES = 200_000


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    settings = settings_for(
        tmp_path_factory.mktemp("api"),
        api_keys=(KEY,),
        max_body_bytes=LIMIT_BYTES,
        cors_origins=("https://agents.example",),
    )
    with running_api(settings) as running:
        running.worker.come_up()
        yield running


def posted(api: Api, body: Any, key: str = KEY, **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **named}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    return requests.post(f"{api.url}/mcp", data=data, headers=sent, timeout=30)


def request(method: str, params: Any = None, request_id: Any = 1) -> dict[str, Any]:
    body = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return body if params is None else {**body, "params": params}


def modern(method: str, **params: Any) -> dict[str, Any]:
    return request(method, {"_meta": ENVELOPE, **params})


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, "1999-01-01"])
def test_a_handshake_agrees_on_the_newest_version_that_both_have(api: Api, version: str) -> None:
    client = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    answer = posted(api, request("initialize", client))

    result = answer.json()["result"]
    known = version in HANDSHAKE_PROTOCOL_VERSIONS
    assert result["protocolVersion"] == (version if known else HANDSHAKE_PROTOCOL_VERSIONS[-1])
    assert (result["serverInfo"]["name"], "tools" in result["capabilities"]) == ("comfyline", True)
    assert "submit_template" in result["instructions"]
    # No session: any process answers what comes next.
    assert "Mcp-Session-Id" not in answer.headers
    agreed = result["protocolVersion"]
    assert posted(api, {"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202
    tools = posted(api, request("tools/list"), MCP_Protocol_Version=agreed).json()["result"]["tools"]
    assert "get_job" in [tool["name"] for tool in tools]
    assert posted(api, request("ping"), MCP_Protocol_Version=agreed).json()["result"] == {}


def test_without_a_handshake_each_request_says_all_itself(api: Api) -> None:
    found = posted(api, modern("server/discover"), MCP_Protocol_Version=MODERN, Mcp_Method="server/discover").json()
    assert found["result"]["supportedVersions"] == [MODERN]
    assert found["result"]["resultType"] == "complete"

    named = {"MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/call"}
    body = modern("tools/call", name="queue_status", arguments={})
    for name in ("queue_status", "=?base64?cXVldWVfc3RhdHVz?="):
        assert posted(api, body, **named, Mcp_Name=name).json()["result"]["structuredContent"]["healthy_gpus"] == 1


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, -32700),
        (b'{"jsonrpc": "2.0", "jsonrpc": "2.0"}', {}, 400, -32700),
        (b"", {}, 400, -32700),
        (b"[" * 5000 + b"]" * 5000, {}, 400, -32700),
        ([request("tools/list")], {}, 400, -32600),
        ({"id": 1, "method": "tools/list"}, {}, 400, -32600),
        (request("tools/list", request_id=None), {}, 400, -32600),
        (request("tools/list", request_id=1.5), {}, 400, -32600),
        (request("tools/list", request_id={}), {}, 400, -32600),
        (request("tools/list", []), {}, 400, -32600),
        (request("tools/list"), {"Content_Type": "text/plain"}, 415, -32600),
        (request("tools/list"), {"MCP_Protocol_Version": "1999-01-01"}, 400, -32022),
        (request("tools/call", {"name": "get_job", "arguments": {"job_id": "x" * LIMIT_BYTES}}), {}, 413, -32600),
        # What the older versions answer as any other answer.
        (request("tools/nothing"), {}, 200, -32601),
        (request("resources/list"), {}, 200, -32601),
        (request("server/discover"), {}, 200, -32601),
        (request("tools/call", {"name": 7}), {}, 200, -32602),
        (request("tools/call", {"name": "get_job", "arguments": [1]}), {}, 200, -32602),
        (request("initialize", {}), {}, 200, -32602),
        # And what the newest wants a status for.
        (request("tools/list"), {"MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/list"}, 400, -32602),
        (modern("tools/list"), {"MCP_Protocol_Version": MODERN}, 400, -32020),
        (modern("tools/list"), {"MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/call"}, 400, -32020),
        (
            modern("tools/call", name="get_job"),
            {"MCP_Protocol_Version": MODERN, "Mcp_Method": "tools/call", "Mcp_Name": "cancel_job"},
            400,
            -32020,
        ),
        (modern("ping"), {"MCP_Protocol_Version": MODERN, "Mcp_Method": "ping"}, 404, -32601),
    ],
)
def test_what_is_no_request_is_an_error_of_json_rpc(
    api: Api, body: Any, headers: dict[str, str], status: int, code: int
) -> None:
    answer = posted(api, body, **headers)

    told = answer.json()
    assert (answer.status_code, told["jsonrpc"], told["error"]["code"]) == (status, "2.0", code), told
    assert told["error"]["message"]
    assert "result" not in told


def test_an_error_names_the_request_it_is_of(api: Api) -> None:
    assert posted(api, request("tools/nothing", request_id="mine")).json()["id"] == "mine"
    assert posted(api, b"{").json()["id"] is None


def test_nobody_waits_for_an_answer_to_a_notification_or_an_answer(api: Api) -> None:
    for body in (
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "method": "notifications/nothing"},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
    ):
        answer = posted(api, body)
        assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_there_is_no_stream_and_no_session_to_end(api: Api, method: str) -> None:
    answer = requests.request(method, f"{api.url}/mcp", headers={"Authorization": f"Bearer {KEY}"}, timeout=10)

    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize("key", ["", "another"])
def test_a_wrong_key_is_told_what_to_bring(api: Api, key: str) -> None:
    answer = posted(api, request("tools/list"), key)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.json()["error"]["data"]["code"] == "unauthorized"


def test_a_key_may_come_in_the_other_header(api: Api) -> None:
    assert posted(api, request("ping"), "", X_API_Key=KEY).json()["result"] == {}


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("https://agents.example", 200)],
)
def test_pages_of_other_sites_are_refused_unless_let_in(api: Api, origin: str, status: int) -> None:
    assert posted(api, request("ping"), Origin=origin).status_code == status
    assert posted(api, request("ping"), Origin=api.url).status_code == 200


def test_with_a_key_and_on_another_address_foreign_origins_are_refused_as_well(api: Api) -> None:
    """Where the other contracts let programs name what they like: this protocol asks for it."""
    answer = posted(api, request("ping"), Host="comfyline.example", Origin="https://evil.example")
    elsewhere = requests.get(
        f"{api.url}/api/v2/jobs",
        headers={"Authorization": f"Bearer {KEY}", "Host": "comfyline.example", "Origin": "https://evil.example"},
        timeout=10,
    )

    assert (answer.status_code, elsewhere.status_code) == (403, 200)
    assert answer.json()["error"]["data"]["code"] == "forbidden_origin"


def test_a_client_that_takes_no_stream_gets_the_result_alone(api: Api) -> None:
    job_id = _submitted(api)
    call = request("tools/call", {"name": "wait_for_job", "arguments": {"job_id": job_id, "timeout_s": 0.1}})

    answer = posted(api, call, Accept="application/json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["result"]["structuredContent"]["id"] == job_id
    streamed = posted(api, call)
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    # Nobody asked for progress.
    assert [line for line in streamed.text.splitlines() if line.startswith("event:")] == ["event: message"]


def test_progress_is_told_under_the_token_that_was_given(api: Api) -> None:
    params = {"name": "wait_for_job", "arguments": {"job_id": _submitted(api), "timeout_s": 1.5}}
    streamed = posted(api, request("tools/call", {**params, "_meta": {"progressToken": "mine"}}, request_id=9))

    messages = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert messages[0]["method"] == "notifications/progress"
    assert messages[0]["params"]["progressToken"] == "mine"
    assert "queued" in messages[0]["params"]["message"]
    assert (messages[-1]["id"], messages[-1]["result"]["structuredContent"]["has_ended"]) == (9, False)


def _submitted(api: Api) -> str:
    answer = posted(api, request("tools/call", {"name": "submit_workflow", "arguments": {"workflow": GRAPH}}))
    job_id: str = answer.json()["result"]["structuredContent"]["id"]
    return job_id
