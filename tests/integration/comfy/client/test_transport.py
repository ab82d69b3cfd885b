"""What goes over the wire to a ComfyUI server, and what happens when the wire fails."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from comfy.client import transport
from comfy.client.client import ComfyClient
from comfy.client.transport import timed_out
from comfy.prompts.event_socket import EventSocket
from comfy.prompts.session import ComfySession
from core.errors import ComfyUnavailable
from tests.comfy_target import QUICK, new_id, picture
from tests.ports import free_port
from tests.s3_server import dripping
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import eventually


class Wire:
    """Stands between a client and a server on loopback and passes bytes on, except where a test wants a failure.

    With no server behind it, it reads one request and hangs up.
    """

    def __init__(self, upstream_port: int | None = None) -> None:
        self.requests: list[bytes] = []
        #: Requests that start like this reach the server, but their reply is dropped with the connection.
        self.swallow: bytes | None = None
        self.swallowed = 0
        self._upstream_port = upstream_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        # Shutting down, unlike closing, wakes the threads that wait on these sockets.
        for each in (self._listener, *self._sockets):
            _hang_up(each)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._sockets.append(client)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        if self._upstream_port is None:
            self.requests.append(client.recv(65536))
            _hang_up(client)
            return
        server = socket.create_connection(("127.0.0.1", self._upstream_port))
        self._sockets.append(server)
        back = threading.Thread(target=_copy, args=(server, client))
        back.start()
        try:
            while data := client.recv(65536):
                self.requests.append(data)
                if self.swallow and data.startswith(self.swallow):
                    self.swallow = None
                    self.swallowed += 1
                    self._ask_and_hang_up(data, client)
                    break
                server.sendall(data)
        except OSError:
            pass
        _hang_up(client)
        _hang_up(server)
        back.join()

    def _ask_and_hang_up(self, data: bytes, client: socket.socket) -> None:
        assert self._upstream_port is not None
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            # Headers and body may come in two pieces.
            data += client.recv(65536)
        with socket.create_connection(("127.0.0.1", self._upstream_port)) as server:
            server.sendall(data)
            server.recv(65536)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("simulator")) as server:
        yield server


@pytest.fixture
def wire(server: SimulatorProcess) -> Iterator[Wire]:
    wire = Wire(server.port)
    yield wire
    wire.close()


@pytest.fixture
def dead_end() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def test_a_lost_reply_does_not_queue_the_prompt_twice(wire: Wire) -> None:
    with ComfySession(wire.url, pace=QUICK) as session:
        wire.swallow = b"POST /prompt"
        graph, prompt_id = picture(), new_id()
        result = session.submit(graph, prompt_id=prompt_id).wait(timeout_s=10)
        assert wire.swallowed == 1
        assert [item.filename for item in result.outputs] == ["out_00001_.png"]
        assert sum(request.startswith(b"POST /prompt ") for request in wire.requests) == 1


def test_a_lost_reply_to_a_question_is_asked_again(wire: Wire) -> None:
    client = ComfyClient(wire.url)
    wire.swallow = b"GET /queue"
    assert client.find(new_id()) is None
    wire.swallow = b"GET /prompt"
    assert client.queue_remaining() == 0
    assert wire.swallowed >= 1
    client.close()


def test_requests_carry_no_origin(dead_end: Wire) -> None:
    with pytest.raises(ComfyUnavailable):
        ComfyClient(dead_end.url).queue_remaining()
    events = EventSocket(dead_end.url, on_frame=lambda frame: None, on_lost=lambda client_id: None)
    with pytest.raises(ComfyUnavailable):
        events.ensure_connected()
    events.close()
    sent = [request.lower() for request in dead_end.requests if request]
    assert any(request.startswith(b"get /prompt ") for request in sent)
    assert any(request.startswith(b"get /ws?clientid=") for request in sent)
    assert not any(b"origin:" in request or b"sec-fetch" in request for request in sent)


def test_proxies_of_the_environment_are_not_for_us(server: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ComfySession(server.base_url, pace=QUICK) as session:
        assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_every_connection_has_a_client_id_of_its_own(server: SimulatorProcess) -> None:
    lost: list[str] = []
    events = EventSocket(server.base_url, on_frame=lambda frame: None, on_lost=lost.append)
    first = events.ensure_connected()
    events.reconnect()
    assert eventually(lambda: events.client_id not in (None, first))
    second = events.ensure_connected()
    events.close()
    assert first != second
    assert lost == [first, second]
    with pytest.raises(ComfyUnavailable):
        events.ensure_connected()


def test_what_is_no_comfyui_is_unavailable(server: SimulatorProcess) -> None:
    client = ComfyClient(f"{server.base_url}/no/such/prefix")
    with pytest.raises(ComfyUnavailable, match="404"):
        client.queue_remaining()
    with pytest.raises(ComfyUnavailable, match="405"):
        client.post_prompt(picture(), prompt_id=new_id(), client_id=new_id())
    client.close()


def test_the_api_prefix_works_as_well(server: SimulatorProcess) -> None:
    with ComfySession(f"{server.base_url}/api", pace=QUICK) as session:
        assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "not a ComfyUI"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "not JSON"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello", "answered 502: hello"),
        (None, "did not answer in time"),
    ],
    ids=["closed", "other", "text", "gateway", "silent"],
)
def test_what_is_no_comfyui_is_told_by_its_answer(answer: bytes | None, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        served = threading.Thread(target=_answer_all, args=(listener, answer), daemon=True)
        served.start()
        client = ComfyClient(url, read_timeout_s=0.5)
        with contextlib.closing(client), pytest.raises(ComfyUnavailable, match=reason) as caught:
            client.queue_remaining()
        assert "127.0.0.1" not in caught.value.message
        listener.shutdown(socket.SHUT_RDWR)
    served.join(5)


def _answer_all(listener: socket.socket, answer: bytes | None) -> None:
    """Answer each connection, or keep it open without a word for None."""
    kept = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        kept.append(connection)
        if answer is not None:
            connection.recv(65536)
            connection.sendall(answer)
            _hang_up(connection)
    for connection in kept:
        connection.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:{port}", "connection refused"), ("http://no-such-host.invalid:8188", "cannot be resolved")],
    ids=["refused", "unknown"],
)
def test_what_cannot_be_reached_is_told_by_the_reason(url: str, reason: str) -> None:
    client = ComfyClient(url.format(port=free_port()))
    with contextlib.closing(client), pytest.raises(ComfyUnavailable, match=reason) as caught:
        client.queue_remaining()
    assert "127.0.0.1" not in caught.value.message
    assert "no-such-host" not in caught.value.message


@pytest.mark.parametrize("most_bytes", [transport._MAX_BODY_BYTES, 5])
def test_an_answer_that_never_ends_is_none(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    monkeypatch.setattr(transport, "_MAX_BODY_BYTES", most_bytes)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n") as url:
        client = ComfyClient(url, read_timeout_s=0.2 if most_bytes > 5 else 60.0)
        with pytest.raises(ComfyUnavailable, match="did not answer in time") as caught:
            client.queue_remaining()
        client.close()
    assert timed_out(caught.value)
