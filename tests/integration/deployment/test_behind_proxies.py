"""nginx and Caddy, as deploy/ configures them, before a running fleet: TLS, events, uploads, clients' addresses."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.fleet import Fleet, work
from tests.front import Caddy, FromAddress, Front, Nginx
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.slow

KEY = "a-key-of-the-operator"
BEARER = {"Authorization": f"Bearer {KEY}"}
MIB = 1024 * 1024
IS_LONG = bool(os.environ.get("COMFYLINE_TEST_LONG"))
#: 5 GB takes a minute or two, and twice the room.
UPLOAD_BYTES = 5 * 10**9 if IS_LONG else 48 * MIB
#: What a proxy may write meanwhile: its log.
LOG_BYTES = MIB
#: A client behind the proxy, and one who comes without it.
BEHIND, BESIDE = "127.0.0.5", "127.0.0.9"


class KeyedFleet(Fleet):
    """A fleet that asks for a key also when it is asked how it is."""

    def instances(self, state: str | None = None) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.base_url}/ready", headers=BEARER, timeout=5).json()
        return [each for each in answer["instances"] if state is None or each["state"] == state]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One machine, whose API believes its proxy."""
    made = KeyedFleet(
        tmp_path_factory.mktemp("fleet"),
        api_keys=KEY,
        trusted_proxies="127.0.0.1/32",
        max_upload_bytes=str(6 * 10**9),
        simulated_gpus="1",
    )
    # Where uploads are until they are whole.
    with made.with_variables(TMPDIR=str(made.root)):
        made.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=90)
        yield made


@pytest.fixture(scope="module", params=[Nginx, Caddy], ids=["nginx", "caddy"])
def front(fleet: Fleet, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    kind: type[Front] = request.param
    with kind(tmp_path_factory.mktemp("front") / "proxy", f"127.0.0.1:{fleet.port}") as running:
        yield running


def submit(client: requests.Session, url: str, graph: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"{url}/api/v2/jobs", json={"workflow": graph}, timeout=20)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def status_beside(fleet: Fleet, job_id: str) -> str:
    """What the API itself says of a job at this moment."""
    answer = requests.get(f"{fleet.base_url}/api/v2/jobs/{job_id}", headers=BEARER, timeout=10)
    return str(answer.json()["status"])


class Events:
    """A stream of events, read as they come."""

    def __init__(self, client: requests.Session, url: str, last_id: str | None = None) -> None:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        self._answer = client.get(url, headers=headers, stream=True, timeout=60)
        assert self._answer.status_code == 200, self._answer.text
        self._lines = self._answer.iter_lines(chunk_size=1, decode_unicode=True)

    def __iter__(self) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
        """`(id, event, data)` of each."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields.get("id"), fields.get("event", "message"), json.loads(fields["data"])
                fields = {}

    def close(self) -> None:
        self._answer.close()


def test_a_job_is_served_by_tls_with_links_that_lead_back_to_the_proxy(fleet: Fleet, front: Front) -> None:
    client = front.client(**BEARER)

    job = submit(client, front.url, work(0.1))
    for link in job["urls"].values():
        assert link.startswith(f"{front.url}/"), link
    done = until(
        lambda: (found := client.get(job["urls"]["self"], timeout=10).json())["status"] == "succeeded" and found,
        timeout_s=60,
        what="the job",
    )

    [output] = done["outputs"]
    assert output["url"].startswith(f"{front.url}/")
    # A link needs no key.
    assert front.client().get(output["url"], timeout=10).content.startswith(b"\x89PNG")
    assert front.client().get(job["urls"]["self"], timeout=10).status_code == 401


def test_a_websocket_of_comfyuis_own_protocol_comes_through(front: Front) -> None:
    client, client_id = front.client(**BEARER), uuid.uuid4().hex
    connection = websocket.create_connection(
        f"{front.url.replace('https', 'wss', 1)}/comfyui/ws?clientId={client_id}",
        header=BEARER,
        origin=front.url,
        sslopt={"ca_certs": str(client.verify)},
        timeout=60 * PATIENCE,
    )
    assert json.loads(connection.recv())["data"]["sid"] == client_id
    body = {"prompt": work(0.5), "client_id": client_id}
    prompt_id = client.post(f"{front.url}/comfyui/prompt", json=body, timeout=20).json()["prompt_id"]
    last = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
    until(lambda: json.loads(connection.recv()) == last, what="the end of the prompt")
    connection.close()


def test_events_arrive_when_they_happen_and_go_on_where_a_client_was(fleet: Fleet, front: Front) -> None:
    client = front.client(**BEARER)
    job = submit(client, front.url, work(6.0, steps=30))
    beside = requests.Session()
    beside.headers.update(BEARER)
    direct: list[str] = []

    def follow() -> None:
        events = Events(beside, f"{fleet.base_url}/api/v2/jobs/{job['id']}/events")
        direct.extend(number for number, _, _ in events if number is not None)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    seen: list[str] = []

    first = Events(client, job["urls"]["events"])
    for number, _event, data in first:
        if number is not None:
            seen.append(number)
        if data.get("status") == "running":
            break
    # Whoever keeps answers until they are long enough, or over, has told nothing yet.
    assert status_beside(fleet, job["id"]) == "running"
    first.close()

    more = [number for number, _, _ in Events(client, job["urls"]["events"], last_id=seen[-1]) if number is not None]
    # It begins again with what is so now, and after that nothing comes twice, or is missing.
    assert int(more[0]) >= int(seen[-1])
    follower.join(30)
    assert more[1:]
    assert more[1:] == [number for number in direct if int(number) > int(more[0])]
    assert status_beside(fleet, job["id"]) == "succeeded"


def test_a_request_that_waits_for_its_job_has_its_answer(fleet: Fleet, front: Front) -> None:
    answer = front.client(**BEARER).post(
        f"{front.url}/generate/sync", json={"input": {"workflow_json": work(2.0)}}, timeout=90
    )

    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed"


def body(size_bytes: int, halfway: threading.Event, go_on: threading.Event, digest: Any) -> Iterator[bytes]:
    """A form with a file, sent piece by piece; in the middle it waits."""
    yield (
        b'--limit\r\nContent-Disposition: form-data; name="file_path"\r\n\r\nlarge.safetensors\r\n'
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="large.safetensors"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n"
    )
    piece = os.urandom(MIB)
    for offset in range(0, size_bytes, MIB):
        if offset <= size_bytes // 2 < offset + MIB:
            halfway.set()
            assert go_on.wait(60)
        # Each piece is another one, so that nothing on the way can save any.
        part = (offset.to_bytes(8, "big") + piece)[: min(MIB, size_bytes - offset)]
        digest.update(part)
        yield part
    yield b"\r\n--limit--\r\n"


def arrived_bytes(fleet: Fleet) -> int:
    """What the API holds of uploads that are on their way, in files that have no name."""
    pid = fleet.processes["api"].pid
    family = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    sizes = []
    for one in family:
        for link in Path(f"/proc/{one}/fd").iterdir():
            try:
                if str(link.readlink()).startswith(str(fleet.root)) and "(deleted)" in str(link.readlink()):
                    sizes.append(link.stat().st_size)
            except OSError:
                continue
    return max(sizes, default=0)


@pytest.mark.timeout(900 if IS_LONG else 180)
def test_a_large_upload_passes_through_and_leaves_nothing_on_the_proxys_disk(fleet: Fleet, front: Front) -> None:
    halfway, go_on, digest = threading.Event(), threading.Event(), hashlib.sha256()
    answers: list[requests.Response] = []
    before = front.written_bytes()

    def send() -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=limit"}
        content = body(UPLOAD_BYTES, halfway, go_on, digest)
        answers.append(
            front.client(**BEARER).post(f"{front.url}/api/v2/assets", data=content, headers=headers, timeout=600)
        )

    sender = threading.Thread(target=send, daemon=True)
    began_s = time.monotonic()
    sender.start()
    try:
        assert halfway.wait(400 if IS_LONG else 60)
        # What has been sent is with the API already; what lies in sockets on the way is small.
        until(lambda: arrived_bytes(fleet) > UPLOAD_BYTES // 2 - 16 * MIB, what="half of the upload at the API")
    finally:
        go_on.set()
    sender.join(600)

    [answer] = answers
    assert answer.status_code == 201, answer.text
    print(f"{UPLOAD_BYTES:,} bytes in {time.monotonic() - began_s:.1f} s, {front.written_bytes() - before:,} written")
    assert front.written_bytes() - before < LOG_BYTES
    asset = answer.json()
    assert asset["size_bytes"] == UPLOAD_BYTES
    fetched = hashlib.sha256()
    with front.client(**BEARER).get(asset["url"], stream=True, timeout=600) as download:
        for piece in download.iter_content(MIB):
            fetched.update(piece)
    assert fetched.hexdigest() == digest.hexdigest()
    # A slow client's download is not kept either.
    assert front.written_bytes() - before < LOG_BYTES
    assert front.client(**BEARER).delete(f"{front.url}/api/v2/assets/{asset['id']}", timeout=60).status_code == 204


def address_of_last_act(fleet: Fleet) -> str | None:
    """Where the last line of the audit was from."""
    [line] = requests.get(
        f"{fleet.base_url}/api/v2/audit", params={"act": "key.create", "limit": "1"}, headers=BEARER, timeout=10
    ).json()["acts"]
    address: str | None = line["by"]["address"]
    return address


def make_key(client: requests.Session, url: str, **headers: str) -> None:
    made = client.post(f"{url}/api/v2/keys", json={"name": "one", "scopes": ["read"]}, headers=headers, timeout=10)
    assert made.status_code == 201, made.text


def test_the_audit_has_the_clients_address_whatever_the_client_says(fleet: Fleet, front: Front) -> None:
    client = front.client(BEHIND, **BEARER)

    make_key(client, front.url)
    assert address_of_last_act(fleet) == BEHIND
    make_key(client, front.url, **{"X-Forwarded-For": "203.0.113.66"})
    assert address_of_last_act(fleet) == BEHIND


def test_whoever_is_no_trusted_proxy_is_not_believed(fleet: Fleet) -> None:
    client = requests.Session()
    client.mount("http://", FromAddress(BESIDE))
    client.headers.update(BEARER)

    make_key(client, fleet.base_url, **{"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "https"})

    assert address_of_last_act(fleet) == BESIDE


def test_plain_http_is_sent_to_tls(fleet: Fleet, front: Front) -> None:
    if isinstance(front, Caddy):
        pytest.skip("Caddy's own redirects are switched off in the test, for they need port 80")

    answer = requests.get(f"http://127.0.0.1:{front.plain_port}/docs?a=1", allow_redirects=False, timeout=10)

    assert answer.status_code == 301
    assert answer.headers["Location"] == "https://127.0.0.1/docs?a=1"


def test_signed_links_are_not_in_the_proxys_log(fleet: Fleet, front: Front) -> None:
    front.client().get(f"{front.url}/health?signature=do-not-write-me", timeout=10)

    logs = "".join(path.read_text(errors="replace") for path in front.folder.glob("*.log"))
    assert "do-not-write-me" not in logs
    if isinstance(front, Nginx):
        assert '"GET /health" 200' in logs
