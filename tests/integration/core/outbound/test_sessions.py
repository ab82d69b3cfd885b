"""URLs of clients against real servers: nobody reaches what is forbidden, nobody exceeds a limit."""

from __future__ import annotations

import datetime
import gzip
import io
import re
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from urllib3.exceptions import HTTPError, ProtocolError

from core.errors import AddressRefused, ComfylineError, InputUnavailable, InvalidRequest
from core.ledger import Ledger
from core.outbound import Policy
from core.outbound.fetch import Fetched, fetch
from core.outbound.s3 import guard_s3_client
from core.outbound.sessions import GuardedSession, KeptConnection
from core.records.webhook_target import WebhookTarget
from core.settings import Settings
from tasks.webhooks.dispatcher import WebhookDispatcher
from tests.fleet import ROOT
from tests.ledger_moves import succeeded
from tests.refused_urls import REFUSED_URLS, Resolver, connections
from tests.services import make_settings
from tests.waiting import eventually

STRICT = Policy()
#: Only one address of the loopback network: 127.0.0.2, on the same machine, is forbidden.
ONE = Policy(allowed=(ip_network("127.0.0.1/32"),))
LOOPBACK = Policy(allowed=(ip_network("127.0.0.0/8"),))
LIMIT_S = 0.5
#: How long a peer sends drop after drop, if nobody hangs up on it.
DRIPPING_S = 9.0
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"

#: One for all clients, because it reads megabytes of descriptions.
SESSION = boto3.Session(aws_access_key_id="id", aws_secret_access_key="key", region_name="us-east-1")

#: Bytes to send, seconds to wait.
Piece = bytes | float


def drip(piece: bytes, *, gap_s: float = 0.1) -> list[Piece]:
    """The same again and again, for `DRIPPING_S`."""
    return [piece, gap_s] * int(DRIPPING_S / gap_s)


class Peer(socketserver.ThreadingTCPServer):
    """Answers each path with the pieces it was told; hangs up then."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> None:
        super().__init__((host, port), _Conversation)
        self.context = context
        self.answers: dict[str, Sequence[Piece]] = {}
        #: Request lines and headers, as they came.
        self.heads: list[str] = []

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    def says(self, path: str, *pieces: Piece) -> str:
        """Set the answer of a path; returns its URL."""
        self.answers[path] = pieces
        return f"http://127.0.0.1:{self.port}{path}"

    def points(self, path: str, location: str, status: int = 302) -> str:
        """Have a path redirect; returns its URL."""
        return self.says(path, f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    def handle_error(self, *_arguments: Any) -> None:
        """Clients that leave early are what is tested."""


class _Conversation(socketserver.BaseRequestHandler):
    server: Peer

    def handle(self) -> None:
        connection = self.request
        if self.server.context is not None:
            connection = self.server.context.wrap_socket(connection, server_side=True)
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            # To hang up on what was not read would reset the connection, and the answer with it.
            head, _end, body = head.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            while length is not None and len(body) < int(length[1]):
                received = connection.recv(65536)
                if not received:
                    return
                body += received
            self.server.heads.append(head.decode())
            for piece in self.server.answers[head.split()[1].decode()]:
                if isinstance(piece, bytes):
                    connection.sendall(piece)
                else:
                    time.sleep(piece)


@contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    with peer:
        thread = threading.Thread(target=peer.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield peer
        finally:
            peer.shutdown()
            thread.join()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with serving(Peer()) as peer:
        yield peer


def get(url: str, policy: Policy = ONE, *, limit_bytes: int = 1000, timeout_s: float = 5.0) -> tuple[Fetched, bytes]:
    target = io.BytesIO()
    fetched = fetch(url, policy=policy, limit_bytes=limit_bytes, timeout_s=timeout_s, target=target)
    return fetched, target.getvalue()


def post(url: str, policy: Policy) -> int:
    with GuardedSession(policy, limit_s=5) as session, session.post(url, data=b"{}", timeout=2) as answer:
        return answer.status_code


def post_kept(url: str, policy: Policy) -> int:
    with closing(KeptConnection(policy)) as connection:
        return post_over(connection, url)


def post_over(connection: KeptConnection, url: str, *, limit_s: float = 5.0) -> int:
    with connection.post(url, b"{}", {}, limit_s=limit_s, connect_timeout_s=2) as answer:
        answer.read()
        return answer.status


def s3_client(url: str, policy: Policy) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}, connect_timeout=2, read_timeout=2)
    client = SESSION.client("s3", endpoint_url=url, config=config)
    guard_s3_client(client, policy)
    return client


def list_buckets(url: str, policy: Policy) -> Any:
    return s3_client(url, policy).list_buckets()


class TestRefused:
    @pytest.fixture(autouse=True)
    def hostile_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Resolver(monkeypatch, {"*": [["169.254.169.254"]]})

    def test_fetch_connects_to_none_of_them(self) -> None:
        with connections() as opened:
            for url in REFUSED_URLS:
                with pytest.raises(InvalidRequest):
                    get(url, STRICT)
        assert opened == []

    def test_a_webhook_session_connects_to_none_of_them(self) -> None:
        # Without the check of the URL, which stands before it: each has to hold by itself.
        with connections() as opened:
            for url in REFUSED_URLS:
                with pytest.raises((AddressRefused, OSError, ValueError)):
                    post(url, STRICT)
        assert opened == []

    def test_an_s3_client_connects_to_none_of_them(self) -> None:
        refused = 0
        with connections() as opened:
            for url in filter(None, REFUSED_URLS):
                with pytest.raises((AddressRefused, BotoCoreError, ValueError)) as caught:
                    list_buckets(url, STRICT)
                refused += isinstance(caught.value, AddressRefused)
        assert opened == []
        # Most are refused for their address, and not because botocore cannot read them.
        assert refused > 80

    def test_a_connection_would_have_been_seen(self, peer: Peer) -> None:
        with connections() as opened:
            get(peer.says("/", OK, b"\r\n"))
        assert opened == [("127.0.0.1", peer.port)]


class TestNames:
    def test_a_name_is_resolved_once_and_the_checked_address_is_used(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolver = Resolver(monkeypatch, {"rebind.example": [["127.0.0.1"], ["127.0.0.2"]]})
        peer.says("/a", OK, b"\r\nhello")
        url = f"http://rebind.example:{peer.port}/a"
        with connections() as opened:
            assert get(url)[1] == b"hello"
            with pytest.raises(InputUnavailable, match="private address"):
                get(url)
        assert resolver.asked == ["rebind.example"] * 2
        assert opened == [("127.0.0.1", peer.port)]
        assert f"Host: rebind.example:{peer.port}" in peer.heads[0]

    @pytest.mark.parametrize("others", [["127.0.0.2"], ["10.0.0.1", "::1"], ["::ffff:10.0.0.1"], ["64:ff9b::a00:1"]])
    def test_one_forbidden_address_refuses_the_name(
        self, peer: Peer, others: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Resolver(monkeypatch, {"mixed.example": [["127.0.0.1", *others]]})
        url = f"http://mixed.example:{peer.port}/"
        with connections() as opened:
            with pytest.raises(InputUnavailable, match="private address"):
                get(url)
            with pytest.raises(AddressRefused):
                post(url, ONE)
            with pytest.raises(AddressRefused):
                list_buckets(url, ONE)
        assert opened == []

    def test_an_address_that_is_silent_leaves_time_for_the_next(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        peer.says("/a", OK, b"\r\nhello")
        with socket.create_server(("127.0.0.2", peer.port), backlog=0) as full:
            waiting = [socket.socket() for _ in range(3)]
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            Resolver(monkeypatch, {"two.example": [["127.0.0.2", "127.0.0.1"]]})
            url = f"http://two.example:{peer.port}/a"
            begun_s = time.monotonic()
            assert get(url, LOOPBACK, timeout_s=6.0)[1] == b"hello"
            assert time.monotonic() - begun_s < 5.4
            for each in waiting:
                each.close()

    def test_a_slow_resolver_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        release = threading.Event()

        def getaddrinfo(*_arguments: Any, **_options: Any) -> list[Any]:
            release.wait(20)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert_too_slow("http://slow.example/")
        release.set()

    def test_a_name_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Resolver(monkeypatch, {})
        with pytest.raises(InputUnavailable, match="does not answer"):
            get("http://nobody.example/")


class TestRedirects:
    def test_three_are_followed_relative_ones_too(self, peer: Peer) -> None:
        url = peer.points("/1", "/2?x=1#part")
        peer.points("/2?x=1", peer.points("/3", "4", 308), 307)
        peer.says("/4", OK, b"Content-Length: 2\r\n\r\nhi")
        fetched, content = get(url)
        assert (fetched.url, fetched.content_type, fetched.size_bytes) == (url[:-1] + "4", "image/png", 2)
        assert content == b"hi"

    def test_a_loop_ends(self, peer: Peer) -> None:
        with pytest.raises(InputUnavailable, match="redirected more than 3 times"):
            get(peer.points("/loop", "/loop"))
        assert len(peer.heads) == 4

    @pytest.mark.parametrize(
        "location",
        [
            "http://127.0.0.2:{port}/a",
            "//127.0.0.2:{port}/a",
            "http://inside.example:{port}/a",
            "http://2130706434/",
            "file:///etc/passwd",
            "http://a@127.0.0.1:{port}/a",
            "http://127.0.0.1:{port}\\@b/",
            "http://[::1",
            "",
        ],
    )
    def test_each_is_judged_like_the_first_url(
        self, peer: Peer, location: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Resolver(monkeypatch, {"inside.example": [["127.0.0.2"]]})
        with serving(Peer("127.0.0.2", peer.port)) as inside:
            inside.says("/a", OK, b"\r\nsecret")
            with pytest.raises(InputUnavailable, match=r"redirected to where|private address|redirected more"):
                get(peer.points("/1", location.format(port=peer.port)))
        assert inside.heads == []

    def test_a_webhook_follows_none(self, peer: Peer) -> None:
        peer.says("/2", OK, b"\r\n")
        assert post(peer.points("/1", "/2", 307), ONE) == 307
        assert len(peer.heads) == 1


class TestLimits:
    @pytest.mark.parametrize(
        ("pieces", "problem"),
        [
            ([OK, b"Content-Length: 5\r\n\r\nhello"], ""),
            ([OK, b"\r\nhello"], ""),
            ([OK, b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"], ""),
            # What is beyond the declared length belongs to nobody.
            ([OK, b"Content-Length: 5\r\n\r\nhello and more"], ""),
            ([OK, b"Content-Length: 1001\r\n\r\n"], "over the limit of 1000 bytes"),
            ([OK, b"\r\n", b"x" * 1001], "over the limit of 1000 bytes"),
            ([OK, b"Transfer-Encoding: chunked\r\n\r\n", *[b"1ff\r\n" + b"x" * 511 + b"\r\n"] * 3], "over the limit"),
            ([OK, b"Content-Length: 9\r\n\r\nhello"], "does not answer as it should"),
            ([OK, b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"], "does not answer as it should"),
            ([OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], "does not answer as it should"),
            ([OK, b"Content-Encoding: gzip\r\n\r\n", gzip.compress(bytes(10_000_000))], "compressed"),
            ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret"], "answered 404"),
            ([b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello"], "answered 206"),
            ([b"HTTP/1.1 204 No Content\r\n\r\n"], "answered 204"),
            ([b"SSH-2.0-OpenSSH_9.6\r\n"], "does not answer as it should"),
            ([], "does not answer as it should"),
        ],
    )
    def test_bodies(self, peer: Peer, pieces: list[Piece], problem: str) -> None:
        url = peer.says("/", *pieces)
        if not problem:
            assert get(url)[1] == b"hello"
            return
        with pytest.raises(InputUnavailable, match=problem) as caught:
            get(url)
        assert "secret" not in str(caught.value)
        assert "OpenSSH" not in str(caught.value)

    def test_nothing_is_written_beyond_the_limit(self, peer: Peer) -> None:
        target = io.BytesIO()
        with pytest.raises(InputUnavailable):
            fetch(peer.says("/", OK, b"\r\n", b"x" * 10**6), policy=ONE, limit_bytes=9, timeout_s=5, target=target)
        assert len(target.getvalue()) <= 9
        assert "Accept-Encoding: identity" in peer.heads[0]

    @pytest.mark.parametrize(
        "pieces",
        [
            [5.0],
            [OK, *drip(b"X: y\r\n")],
            [*drip(b"H")],
            [*drip(b"HTTP/1.1 100 Continue\r\n\r\n", gap_s=0.01)],
            [OK, b"Content-Length: 900\r\n\r\n", *drip(b"x")],
            [OK, b"Transfer-Encoding: chunked\r\n\r\n", *drip(b"1\r\nx\r\n")],
            # Cut, it looks like one that has ended.
            [OK, b"\r\n", *drip(b"x")],
        ],
    )
    def test_time_is_limited_as_a_whole(self, peer: Peer, pieces: list[Piece]) -> None:
        assert_too_slow(peer.says("/", *pieces))

    def test_time_is_limited_over_redirects(self, peer: Peer) -> None:
        peer.says("/2", 0.4, OK, b"\r\n")
        assert_too_slow(peer.says("/1", 0.4, b"HTTP/1.1 302 X\r\nLocation: /2\r\nContent-Length: 0\r\n\r\n"))

    def test_a_webhook_is_limited_as_a_whole(self, peer: Peer) -> None:
        url = peer.says("/", *drip(b"H"))
        begun_s = time.monotonic()
        with GuardedSession(ONE, limit_s=LIMIT_S) as session:
            with pytest.raises(OSError, match="Connection"):
                session.post(url, data=b"{}", timeout=2)
            assert session.deadline.is_over
        assert time.monotonic() - begun_s < DRIPPING_S / 2

    def test_a_full_disk_is_not_the_hosts_fault(self, peer: Peer) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            fetch(peer.says("/", OK, b"\r\nx"), policy=ONE, limit_bytes=9, timeout_s=5, target=full)


def assert_too_slow(url: str) -> None:
    begun_s = time.monotonic()
    with pytest.raises(InputUnavailable, match=rf"took longer than {LIMIT_S:g} s"):
        get(url, timeout_s=LIMIT_S)
    assert LIMIT_S - 0.1 < time.monotonic() - begun_s < DRIPPING_S / 2


class TestTls:
    @pytest.fixture
    def secure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
        """A server whose certificate is good for `files.example`, and trusted."""
        bundle = make_certificate(tmp_path, "files.example")
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(bundle))
        Resolver(monkeypatch, {"*": [["127.0.0.1"]]})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(bundle)
        with serving(Peer(context=context)) as peer:
            yield peer

    def test_the_certificate_is_checked_against_the_name(self, secure: Peer) -> None:
        secure.says("/a", OK, b"\r\nhello")
        assert get(f"https://files.example:{secure.port}/a")[1] == b"hello"
        for host in ("other.example", "127.0.0.1"):
            with pytest.raises(InputUnavailable, match="does not answer as it should"):
                get(f"https://{host}:{secure.port}/a")

    def test_no_redirect_leads_out_of_tls(self, secure: Peer, peer: Peer) -> None:
        secure.points("/a", peer.says("/b", OK, b"\r\n"))
        with pytest.raises(InputUnavailable, match="from https to http"):
            get(f"https://files.example:{secure.port}/a")
        assert peer.heads == []

    def test_a_drip_is_cut_inside_of_tls(self, secure: Peer) -> None:
        secure.says("/a", OK, b"\r\n", *drip(b"x"))
        assert_too_slow(f"https://files.example:{secure.port}/a")

    def test_a_handshake_that_never_ends_is_cut(self, peer: Peer) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            assert_too_slow(f"https://127.0.0.1:{silent.getsockname()[1]}/")


class TestPrivateAuthority:
    """Servers that an authority of the operator's own has certified (COMFYLINE_CA_BUNDLE)."""

    @pytest.fixture
    def private(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Peer, Policy, Policy]]:
        """A server good for `files.example`; a policy that trusts its authority, and one that knows the usual ones."""
        both = make_certificate(tmp_path, "files.example")
        bundle = tmp_path / "bundle.pem"
        bundle.write_text(both.read_text()[both.read_text().index("-----BEGIN CERTIFICATE") :])
        Resolver(monkeypatch, {"*": [["127.0.0.1"]]})
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        with serving(Peer(context=context)) as peer:
            settings = make_settings(tmp_path, ca_bundle=bundle)
            yield peer, Policy.from_settings(settings), replace(Policy.from_settings(settings), ca_bundle=None)

    def test_a_session_trusts_it_too(self, private: tuple[Peer, Policy, Policy]) -> None:
        peer, policy, strange = private
        peer.says("/a", OK, b"\r\nhello")
        url = f"https://files.example:{peer.port}/a"

        assert get(url, policy)[1] == b"hello"
        with pytest.raises(InputUnavailable, match="does not answer as it should"):
            get(url, strange)
        with pytest.raises(InputUnavailable, match="does not answer as it should"):
            get(f"https://other.example:{peer.port}/a", policy)

    def test_a_bucket_trusts_it_too(self, private: tuple[Peer, Policy, Policy]) -> None:
        peer, policy, strange = private
        peer.says("/", OK, b"\r\n", TestS3.BUCKETS)
        url = f"https://files.example:{peer.port}"

        assert [bucket["Name"] for bucket in list_buckets(url, policy)["Buckets"]] == ["pictures"]
        with pytest.raises(SSLError):
            list_buckets(url, strange)

    def test_the_usual_authorities_are_still_trusted(
        self, private: tuple[Peer, Policy, Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        peer, policy, strange = private
        (tmp_path / "other").mkdir()
        peer.says("/a", OK, b"\r\nhello")
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(policy.ca_bundle))
        own = make_certificate(tmp_path / "other", "else.example")

        assert get(f"https://files.example:{peer.port}/a", replace(strange, ca_bundle=own))[1] == b"hello"


class TestS3:
    BUCKETS = (
        b"<ListAllMyBucketsResult><Buckets><Bucket><Name>pictures</Name></Bucket></Buckets></ListAllMyBucketsResult>"
    )

    def test_a_guarded_client_works_where_it_may(self, peer: Peer) -> None:
        url = peer.says("/", b"HTTP/1.1 200 OK\r\n\r\n", self.BUCKETS).rstrip("/")
        assert [bucket["Name"] for bucket in list_buckets(url, ONE)["Buckets"]] == ["pictures"]

    def test_a_refusal_is_not_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        resolver = Resolver(monkeypatch, {"inside.example": [["10.0.0.1"]]})
        with pytest.raises(AddressRefused):
            list_buckets("http://inside.example:9000", STRICT)
        assert resolver.asked == ["inside.example"]

    def test_its_sockets_can_be_watched(self, peer: Peer) -> None:
        url = peer.says("/", b"HTTP/1.1 200 OK\r\n\r\n", self.BUCKETS).rstrip("/")
        client = s3_client(url, ONE)
        seen: list[socket.socket] = []
        guard_s3_client(client, ONE, seen.append)
        client.list_buckets()
        assert len(seen) == 1


KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


class _Keeping(socketserver.BaseRequestHandler):
    """Answers one request after the other on a connection; what it does depends on the path."""

    server: KeepingServer

    def handle(self) -> None:
        self.server.connections += 1
        head = b""
        for number in range(100):
            while not head.endswith(b"\r\n\r\n{}"):
                received = self.request.recv(65536)
                if not received:
                    return
                head += received
            path = head.split()[1].decode()
            self.server.requests.append((path, head.decode()))
            head = b""
            if not self._answers(path, is_first=number == 0):
                return

    def _answers(self, path: str, *, is_first: bool) -> bool:
        """Answer one request; returns whether the connection is kept."""
        if path == "/leaves" or (path == "/leaves-if-kept" and not is_first):
            return False
        if path == "/half":
            self.request.sendall(b"HTTP/1.1 20")
            return False
        if path == "/drips":
            for _ in range(30):
                self.request.sendall(b"H")
                time.sleep(0.1)
        says_close = path == "/closes"
        self.request.sendall(KEPT + b"Set-Cookie: a=b; Path=/\r\n" + b"Connection: close\r\n" * says_close + b"\r\n")
        return path not in ("/closes", "/hangs-up")


class KeepingServer(socketserver.ThreadingTCPServer):
    """Keeps connections, as HTTP/1.1 has it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keeping)
        self.connections = 0
        #: Paths, and heads as they came.
        self.requests: list[tuple[str, str]] = []

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}{path}"

    def handle_error(self, *_arguments: Any) -> None:
        """Clients that leave early are what is tested."""


@pytest.fixture
def keeping() -> Iterator[KeepingServer]:
    with KeepingServer() as keeping:
        thread = threading.Thread(target=keeping.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield keeping
        finally:
            keeping.shutdown()
            thread.join()


@pytest.fixture
def kept() -> Iterator[KeptConnection]:
    with closing(KeptConnection(ONE)) as kept:
        yield kept


class TestKept:
    def test_posts_follow_each_other_on_one_connection_and_share_nothing_else(
        self, keeping: KeepingServer, kept: KeptConnection
    ) -> None:
        assert [post_over(kept, keeping.url(path)) for path in ("/a", "/b", "/c")] == [200] * 3
        assert keeping.connections == 1
        assert not any("cookie" in head.lower() for _path, head in keeping.requests)

    @pytest.mark.parametrize("path", ["/closes", "/hangs-up"])
    def test_one_that_was_closed_meanwhile_is_made_again(
        self, keeping: KeepingServer, kept: KeptConnection, path: str
    ) -> None:
        assert [post_over(kept, keeping.url(path)) for _ in range(3)] == [200] * 3
        assert (keeping.connections, len(keeping.requests)) == (3, 3)

    def test_one_that_is_closed_instead_of_an_answer_is_made_again(
        self, keeping: KeepingServer, kept: KeptConnection
    ) -> None:
        assert [post_over(kept, keeping.url("/leaves-if-kept")) for _ in range(2)] == [200, 200]
        assert (keeping.connections, len(keeping.requests)) == (2, 3)

    def test_a_new_one_that_is_closed_instead_of_an_answer_is_a_failure(
        self, keeping: KeepingServer, kept: KeptConnection
    ) -> None:
        with pytest.raises(ProtocolError):
            post_over(kept, keeping.url("/leaves"))
        assert len(keeping.requests) == 1

    def test_an_answer_that_has_begun_is_not_asked_for_again(
        self, keeping: KeepingServer, kept: KeptConnection
    ) -> None:
        post_over(kept, keeping.url("/"))
        with pytest.raises(ProtocolError):
            post_over(kept, keeping.url("/half"))
        assert len(keeping.requests) == 2

    def test_each_post_has_the_whole_time_and_no_more(self, keeping: KeepingServer, kept: KeptConnection) -> None:
        post_over(kept, keeping.url("/"), limit_s=0.4)
        time.sleep(0.5)
        post_over(kept, keeping.url("/"), limit_s=LIMIT_S)
        assert keeping.connections == 1
        began_s = time.monotonic()
        with pytest.raises(HTTPError):
            post_over(kept, keeping.url("/drips"), limit_s=LIMIT_S)
        assert LIMIT_S - 0.1 < time.monotonic() - began_s < DRIPPING_S / 2
        assert len(keeping.requests) == 3
        assert post_over(kept, keeping.url("/"), limit_s=LIMIT_S) == 200

    def test_every_new_connection_is_guarded(
        self, keeping: KeepingServer, kept: KeptConnection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Resolver(monkeypatch, {"moves.example": [["127.0.0.1"], ["10.0.0.1"]]})
        assert post_over(kept, keeping.url("/closes", "moves.example")) == 200
        with connections() as opened, pytest.raises(AddressRefused):
            post_over(kept, keeping.url("/", "moves.example"))
        assert opened == []

    def test_a_long_answer_is_not_read_to_keep_the_connection(self, peer: Peer, kept: KeptConnection) -> None:
        url = peer.says("/", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x" * 100_000, 5.0)
        began_s = time.monotonic()
        with kept.post(url, b"{}", {}, limit_s=5, connect_timeout_s=2) as answer:
            assert len(answer.read(1000)) == 1000
        assert time.monotonic() - began_s < 4, "the rest takes five seconds"


@pytest.mark.parametrize("send", [get, post, post_kept, list_buckets])
def test_proxies_of_the_environment_are_not_used(
    peer: Peer, send: Callable[[str, Policy], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = peer.says("/", b"HTTP/1.1 200 OK\r\n\r\n", TestS3.BUCKETS)
    with serving(Peer()) as proxy:
        for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        send(url, ONE)
        assert proxy.heads == []
    assert len(peer.heads) == 1


def deliver(ledger: Ledger, settings: Settings, url: str) -> Any:
    """End a job with a webhook, have it posted once, and return the row of the outbox."""
    job_id = succeeded(ledger, webhook=WebhookTarget(url=url, timeout_s=2.0)).job_id
    dispatcher = WebhookDispatcher(settings, ledger)
    dispatcher.call(job_id)
    assert eventually(lambda: ledger.deliveries.page(job_id=job_id)[0].log)
    dispatcher.close()
    return ledger.deliveries.page(job_id=job_id)[0]


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://inside.example/", "http://169.254.169.254/latest/"])
def test_a_webhook_to_a_forbidden_address_is_recorded_and_not_sent(
    sqlite_settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Resolver(monkeypatch, {"inside.example": [["10.0.0.1"]]})
    ledger = Ledger(sqlite_settings)
    with connections() as opened:
        row = deliver(ledger, sqlite_settings, url)
    ledger.close()
    assert (row.state, row.tries, row.status_code, row.error) == ("pending", 1, None, "refused: private address")
    assert opened == []


def test_a_webhook_of_this_machine_is_sent_by_a_fleet_of_one_machine(sqlite_settings: Settings, peer: Peer) -> None:
    url = peer.says("/hook", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    ledger = Ledger(sqlite_settings)
    sent = deliver(ledger, sqlite_settings, url)
    served = sqlite_settings.model_copy(update={"public_url": "https://api.example.com"})
    refused = deliver(ledger, served, url)
    own = deliver(ledger, served.model_copy(update={"webhook_url": url}), url)
    ledger.close()
    assert (sent.state, refused.error, own.state) == ("delivered", "refused: private address", "delivered")


GEVENT = """
import core.outbound
from gevent import monkey
monkey.patch_all()
import io, sys, time
import gevent
from ipaddress import ip_network
from core.errors import InvalidRequest
from core.outbound import Policy
from core.outbound.fetch import fetch
policy = Policy(allowed=(ip_network("127.0.0.1/32"),))
good, drip = sys.argv[1:]
gaps = [0.0]
def tick():
    while True:
        before = time.monotonic()
        gevent.sleep(0.01)
        gaps.append(time.monotonic() - before)
def take(url):
    target = io.BytesIO()
    try:
        fetch(url, policy=policy, limit_bytes=1000, timeout_s=1.5, target=target)
    except InvalidRequest as exc:
        return str(exc)
    return target.getvalue().decode()
gevent.spawn(tick)
begun = time.monotonic()
jobs = [gevent.spawn(take, url) for url in [good, drip, drip, drip, "http://127.0.0.2:1/"]]
gevent.joinall(jobs)
print([job.value.partition(": its ")[2] or job.value for job in jobs])
print(time.monotonic() - begun < 3.0, max(gaps) < 1.0)
"""


def test_under_gevent_nobody_waits_for_another(peer: Peer) -> None:
    urls = [peer.says("/", OK, b"\r\nhello"), peer.says("/drip", OK, b"\r\n", *drip(b"x"))]
    command = [sys.executable, "-W", "error", "-c", GEVENT, *urls]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    slow = "host took longer than 1.5 s."
    refused = "url: 127.0.0.2 is a private address, which this server does not connect to."
    assert done.stdout.splitlines() == [str(["hello", slow, slow, slow, refused]), "True True"], done.stderr


def test_no_error_is_foreign(peer: Peer) -> None:
    assert issubclass(InputUnavailable, ComfylineError)
    peer.says("/", b"\x00" * 100_000)
    with pytest.raises(InputUnavailable):
        get(f"http://127.0.0.1:{peer.port}/")


def make_certificate(folder: Path, name: str) -> Path:
    """A certificate that is its own authority, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path
