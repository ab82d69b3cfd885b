"""The websocket, as gunicorn serves it: who is told what, in ComfyUI's order, and who is not let in."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import websocket

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.job_error import JobError
from core.settings import Settings
from core.storage.backend import output_storage
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for
from tests.makers import GRAPH
from tests.ports import free_port
from tests.waiting import PATIENCE

KEY = "an-operators-key"


@dataclass
class Served:
    """A server with a port for ComfyUI's clients, and a worker beside it."""

    base: str
    ledger: Ledger
    worker: Worker

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(f"{self.base}{path}", json=body, headers={"X-API-Key": KEY}, timeout=20)

    def submit(self, client_id: str | None, key: str = KEY) -> str:
        body = {"prompt": GRAPH, "client_id": client_id} if client_id else {"prompt": GRAPH}
        answer = requests.post(f"{self.base}/prompt", json=body, headers={"X-API-Key": key}, timeout=20)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    def connect(self, client_id: str = "", key: str = KEY, **options: Any) -> websocket.WebSocket:
        address = self.base.replace("http", "ws", 1) + (f"/ws?clientId={client_id}" if client_id else "/ws")
        return websocket.create_connection(
            address, header={"X-API-Key": key} if key else {}, timeout=20 * PATIENCE, **options
        )

    @contextmanager
    def listening(self, client_id: str, key: str = KEY) -> Iterator[websocket.WebSocket]:
        connection = self.connect(client_id, key)
        try:
            first = read(connection)
            assert first["type"] == "status"
            assert first["data"]["sid"] == client_id
            yield connection
        finally:
            connection.close()


def read(connection: websocket.WebSocket) -> dict[str, Any]:
    found = connection.recv()
    assert isinstance(found, str), found
    message: dict[str, Any] = json.loads(found)
    return message


def until_end(connection: websocket.WebSocket) -> list[dict[str, Any]]:
    """All messages up to the last one of a prompt, without those of the queue, which any moment may have."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != "executing" or found[-1]["data"]["node"] is not None:
        message = read(connection)
        if message["type"] != "status":
            found.append(message)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings: Settings = settings_for(tmp_path_factory.mktemp("api"))
    migrate(settings)
    ledger = Ledger(settings)
    worker = Worker(ledger, settings.outputs_dir, output_storage(settings))
    worker.come_up()
    port = free_port()
    with gunicorn_api(settings, COMFYLINE_COMFYUI_PORT=str(port), COMFYLINE_API_KEYS=KEY):
        yield Served(base=f"http://127.0.0.1:{port}", ledger=ledger, worker=worker)
    ledger.close()


def test_a_prompt_is_told_from_its_beginning_to_its_end(served: Served) -> None:
    client = uuid.uuid4().hex
    with served.listening(client) as connection:
        prompt_id = served.submit(client)
        served.worker.run(prompt_id, b"picture")
        told = until_end(connection)
        assert [each["type"] for each in told] == [
            *("execution_start", "execution_cached", "executed", "execution_success", "executing")
        ]
        assert {each["data"]["prompt_id"] for each in told} == {prompt_id}
        [item] = told[2]["data"]["output"]["images"]
        view = requests.get(f"{served.base}/view", params=item, headers={"X-API-Key": KEY}, timeout=9)
        assert view.content == b"picture"
        # By now it is in the history.
        entry = requests.get(f"{served.base}/history/{prompt_id}", headers={"X-API-Key": KEY}, timeout=9).json()
        assert entry[prompt_id]["status"]["completed"] is True


def test_the_queue_is_told_as_it_moves(served: Served) -> None:
    with served.listening(uuid.uuid4().hex) as connection:
        prompt_id = served.submit(None)

        def remaining() -> int:
            return int(read(connection)["data"]["status"]["exec_info"]["queue_remaining"])

        assert remaining() == 1
        served.worker.run(prompt_id, b"x")
        assert remaining() == 0


def test_each_client_hears_of_its_own_prompts_alone(served: Served) -> None:
    mine, other = uuid.uuid4().hex, uuid.uuid4().hex
    with served.listening(mine) as connection, served.listening(other) as others:
        foreign, own = served.submit(other), served.submit(mine)
        served.worker.run(foreign, b"x")
        served.worker.run(own, b"x")
        assert {each["data"]["prompt_id"] for each in until_end(connection)} == {own}
        assert {each["data"]["prompt_id"] for each in until_end(others)} == {foreign}


def test_errors_and_interrupts_end_a_prompt_too(served: Served) -> None:
    client = uuid.uuid4().hex
    with served.listening(client) as connection:
        failed = served.submit(client)
        error = JobError(code="node_execution_error", message="boom", node_id="1", class_type="EmptyImage")
        assert served.ledger.claims.fail(served.worker.claim(failed), error)
        told = until_end(connection)[-2]
        assert (told["type"], told["data"]["exception_message"], told["data"]["node_id"]) == (
            *("execution_error", "boom", "1"),
        )
        stopped = served.submit(client)
        claim = served.worker.claim(stopped)
        assert served.post("/interrupt", {"prompt_id": stopped}).status_code == 200
        assert served.ledger.claims.canceled(claim)
        assert until_end(connection)[-2]["type"] == "execution_interrupted"


def test_who_comes_back_hears_the_rest(served: Served) -> None:
    client = uuid.uuid4().hex
    with served.listening(client):
        prompt_id = served.submit(client)
        claim = served.worker.claim(prompt_id)
    with served.listening(client) as connection:
        served.worker.finish(claim, b"x")
        assert [each["type"] for each in until_end(connection)] == ["executed", "execution_success", "executing"]


def test_without_an_id_one_is_made(served: Served) -> None:
    connection = served.connect()
    sid = read(connection)["data"]["sid"]
    served.worker.run(served.submit(sid), b"x")
    assert until_end(connection)
    connection.close()


def test_flags_count_in_the_first_message_and_are_answered(served: Served) -> None:
    client = uuid.uuid4().hex
    with served.listening(client) as connection:
        connection.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        answer = read(connection)
        assert (answer["type"], answer["data"]["supports_preview_metadata"]) == ("feature_flags", True)
        connection.send("no JSON, and too late")
        connection.ping()
        served.worker.run(served.submit(client), b"x")
        assert until_end(connection)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "a-wrong-key"}, 401),
        ({"X-API-Key": KEY, "Origin": "https://evil.example"}, 403),
        ({"X-API-Key": KEY, "Host": "fleet.example", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_who_is_not_let_in(served: Served, headers: dict[str, str], status: int) -> None:
    address = served.base.replace("http", "ws", 1) + "/ws"
    own = "Origin" in headers or "Host" in headers
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(
            address,
            header={name: value for name, value in headers.items() if name != "Host"},
            host=headers.get("Host"),
            suppress_origin=own,
            timeout=9,
        )
    assert refused.value.status_code == status


def test_a_key_is_taken_as_a_password_from_its_own_pages(served: Served) -> None:
    password = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {password}"}
    asked = requests.get(f"{served.base}/prompt", timeout=9)
    assert asked.status_code == 401
    assert asked.headers["WWW-Authenticate"].startswith("Basic ")
    assert requests.get(f"{served.base}/prompt", headers=headers, timeout=9).status_code == 200
    own = {**headers, "Origin": served.base}
    assert requests.get(f"{served.base}/prompt", headers=own, timeout=9).status_code == 200
    # A name that is not loopback: there a program with a key of its own may name any origin, a browser may not.
    foreign = {**headers, "Host": "fleet.example", "Origin": "https://evil.example"}
    assert requests.post(f"{served.base}/queue", json={"clear": True}, headers=foreign, timeout=9).status_code == 403
    program = {"X-API-Key": KEY, "Host": "fleet.example", "Origin": "https://evil.example"}
    assert requests.get(f"{served.base}/prompt", headers=program, timeout=9).status_code == 200
    address = served.base.replace("http", "ws", 1) + "/ws"
    connection = websocket.create_connection(
        address, header=[f"Authorization: Basic {password}"], origin=served.base, timeout=9
    )
    assert read(connection)["type"] == "status"
    connection.close()


def test_a_password_opens_nothing_else(served: Served) -> None:
    password = base64.b64encode(f"anybody:{KEY}".encode()).decode()
    for path in ("/api/v2/jobs", "/../api/v2/jobs", "/ready"):
        answer = requests.get(f"{served.base}{path}", headers={"Authorization": f"Basic {password}"}, timeout=9)
        # On this port there is nothing else.
        assert answer.status_code == 404


def test_it_is_no_page(served: Served) -> None:
    answer = requests.get(f"{served.base}/ws", headers={"X-API-Key": KEY}, timeout=9)
    assert answer.status_code == 400


def test_a_client_that_is_gone_holds_up_nobody(served: Served) -> None:
    client = uuid.uuid4().hex
    connection = served.connect(client)
    assert read(connection)["type"] == "status"
    assert connection.sock is not None
    # Without a word, as one whose machine lost its power.
    connection.sock.close()
    served.worker.run(served.submit(client), b"x")
    with served.listening(client) as again:
        served.worker.run(served.submit(client), b"x")
        assert until_end(again)


def test_tenants_hear_nothing_of_each_other(served: Served) -> None:
    made = {}
    for tenant in ("acme", "bravo"):
        served.ledger.tenants.create(tenant)
        made[tenant] = served.ledger.keys.create(tenant, name="k", scopes=("submit", "read", "cancel"))[1]
    client = uuid.uuid4().hex
    with served.listening(client, made["acme"]) as acme, served.listening(client, made["bravo"]) as bravo:
        theirs, own = served.submit(client, made["acme"]), served.submit(client, made["bravo"])
        served.worker.run(theirs, b"x")
        served.worker.run(own, b"x")
        assert {each["data"]["prompt_id"] for each in until_end(bravo)} == {own}
        [item] = next(each for each in until_end(acme) if each["type"] == "executed")["data"]["output"]["images"]
    for key, status in ((made["acme"], 200), (made["bravo"], 404)):
        headers = {"X-API-Key": key}
        assert requests.get(f"{served.base}/view", params=item, headers=headers, timeout=9).status_code == status
        found = requests.get(f"{served.base}/history/{theirs}", headers=headers, timeout=9).json()
        assert bool(found) is (status == 200)
        assert list(requests.get(f"{served.base}/history", headers=headers, timeout=9).json()) == [
            theirs if status == 200 else own
        ]
    requests.post(f"{served.base}/settings/x", data="1", headers={"X-API-Key": made["acme"]}, timeout=9)
    seen = requests.get(f"{served.base}/settings", headers={"X-API-Key": made["bravo"]}, timeout=9).json()
    assert seen == {"Comfy.TutorialCompleted": True}, "as of somebody who has set nothing"
