"""An S3 server of the tests' own, and a front before it that fails as it is told."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import boto3
from botocore.config import Config
from moto.server import ThreadedMotoServer

from core.records.bucket_target import BucketTarget, Credentials

CREDENTIALS = Credentials(access_key_id="own-key", secret_access_key="own-secret")
BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n"
    b"<Error><Code>InvalidAccessKeyId</Code><Message>own-key does not exist</Message></Error>"
)
RESET = b"RST"
#: Hangs up on the first half of what it was to read.
HALF = b"HALF"
#: Passes on what every S3 server understands, and refuses checksum trailers, chunks and expectations.
STRICT = b"STRICT"
#: Reads slowly.
SLOW = b"SLOW"
#: What a strict server does not know; in lower case.
_UNKNOWN_TO_SOME = (b"aws-chunked", b"x-amz-trailer", b"x-amz-checksum", b"\r\nexpect:", b"transfer-encoding: chunked")
_SLOW_S = 0.001


class S3Server:
    """A running server, and a client of it for looking into its buckets."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._server = ThreadedMotoServer(address, 0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.url = f"http://{address}:{self.port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="admin",
            aws_secret_access_key="admin",
            config=Config(s3={"addressing_style": "path"}, proxies={}),
        )

    def new_target(self, url: str | None = None, **fields: Any) -> BucketTarget:
        """An empty bucket, at this server's address or at that of a front."""
        name = f"bucket-{uuid.uuid4()}"
        self.client.create_bucket(Bucket=name)
        values: dict[str, Any] = {"endpoint_url": url or self.url, "bucket_name": name, "region": None, "prefix": "p"}
        return BucketTarget(**{**values, **fields})

    def empty(self, name: str) -> None:
        """Have an empty bucket of this name: what these servers hold outlives them, for it belongs to the process."""
        self.client.create_bucket(Bucket=name)
        for item in self.client.list_objects_v2(Bucket=name).get("Contents", ()):
            self.client.delete_object(Bucket=name, Key=item["Key"])
        for begun in self.client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
            self.client.abort_multipart_upload(Bucket=name, Key=begun["Key"], UploadId=begun["UploadId"])

    def signed_put(self, target: BucketTarget, key: str, *, at: str | None = None) -> str:
        """A URL to put one object to; `at` a front of this server."""
        parameters = {"Bucket": target.bucket_name, "Key": key}
        url = str(self.client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=600))
        return url.replace(self.url, at or self.url)

    def content(self, target: BucketTarget) -> dict[str, bytes]:
        """Every object of a bucket, by its key."""
        listed = self.client.list_objects_v2(Bucket=target.bucket_name).get("Contents", ())
        return {
            item["Key"]: self.client.get_object(Bucket=target.bucket_name, Key=item["Key"])["Body"].read()
            for item in listed
        }

    def unfinished(self, target: BucketTarget) -> list[str]:
        """Keys of uploads in parts that were begun and neither ended nor aborted."""
        listed = self.client.list_multipart_uploads(Bucket=target.bucket_name).get("Uploads", ())
        return [item["Key"] for item in listed]

    def stop(self) -> None:
        """End it."""
        self.client.close()
        self._server.stop()


class Front:
    """Stands before a server: does to each connection what `faults` has next, then passes connections through.

    Parameters:
      faults: for each connection an answer to be given at once, `RESET`, `HALF`, `STRICT`, `SLOW`, or None to pass it
        through.
    """

    def __init__(self, port: int, faults: Iterable[bytes | None]) -> None:
        self._port = port
        self._faults = iter(faults)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        #: What each connection sent first.
        self.heads: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                fault = next(self._faults, None)
                threading.Thread(target=self._serve, args=(connection, fault), daemon=True).start()

    def _serve(self, connection: socket.socket, fault: bytes | None) -> None:
        with connection, contextlib.suppress(OSError):
            head = connection.recv(65536)
            self.heads.append(head)
            if fault == RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif fault == HALF:
                _read_some(connection, 3_000_000)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif fault not in (None, STRICT, SLOW):
                connection.sendall(fault)
                _read_some(connection, 1_000_000)
            else:
                self._pass(connection, head, fault)

    def _pass(self, connection: socket.socket, head: bytes, fault: bytes | None) -> None:
        with socket.create_connection(("127.0.0.1", self._port)) as server:
            back = threading.Thread(target=_copy, args=(server, connection), daemon=True)
            back.start()
            _copy(connection, server, head, fault)
            back.join()


class Gate:
    """Stands before a server: passes everything through, late if it is told so, or nothing at all."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._server = (address, port)
        self._listener = socket.create_server((address, 0))
        self.url = f"http://{address}:{self._listener.getsockname()[1]}"
        self._held = Hold(b"")
        self._is_open = True
        #: For which each request waits before anything of it is passed on.
        self.delay_s = 0.0
        #: The first line of each request.
        self.requests: list[str] = []
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        """Cut every connection, and take no more."""
        self._is_open = False
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Pass everything through again."""
        self._is_open = True

    def hold(self, beginning: bytes) -> Hold:
        """Keep the next request that begins so from the server, until it is let go."""
        self._held = Hold(beginning)
        return self._held

    def close(self) -> None:
        """End it."""
        self._held.let_go()
        self.shut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if not self._is_open:
                return
            self._sockets.add(connection)
            with socket.create_connection(self._server) as server:
                # What comes after an answer is another request.
                answered = threading.Event()
                answered.set()
                back = threading.Thread(
                    target=_copy, args=(server, connection), kwargs={"before": lambda _: answered.set()}, daemon=True
                )
                back.start()
                _copy(connection, server, before=lambda data: self._hold_up(answered, data))
                back.join()
            self._sockets.discard(connection)

    def _hold_up(self, answered: threading.Event, data: bytes) -> None:
        if answered.is_set():
            answered.clear()
            self.requests.append(data.partition(b"\r\n")[0].decode())
            time.sleep(self.delay_s)
        self._held.look(data)


class Hold:
    """One request that a gate keeps to itself."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        #: So many are let through before.
        self.skip = 0
        #: It has come.
        self.has_come = threading.Event()
        self._is_over = threading.Event()

    def look(self, data: bytes) -> None:
        """Wait with this piece, if it is the one."""
        if self._beginning and not self.has_come.is_set() and data.startswith(self._beginning):
            if self.skip > 0:
                self.skip -= 1
                return
            self.has_come.set()
            self._is_over.wait()

    def let_go(self) -> None:
        """Pass it on, and hold no other."""
        self._beginning = b""
        self._is_over.set()


def _copy(
    source: socket.socket,
    target: socket.socket,
    data: bytes = b"",
    fault: bytes | None = None,
    before: Callable[[bytes], None] = lambda _: None,
) -> None:
    with contextlib.suppress(OSError):
        while data := data or source.recv(65536):
            before(data)
            if fault == STRICT and any(word in data.lower() for word in _UNKNOWN_TO_SOME):
                source.sendall(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                break
            if fault == SLOW:
                time.sleep(_SLOW_S)
            target.sendall(data)
            data = b""
        target.shutdown(socket.SHUT_WR)


def _read_some(connection: socket.socket, size_bytes: int) -> None:
    connection.settimeout(0.1)
    while size_bytes > 0 and (data := connection.recv(65536)):
        size_bytes -= len(data)


@contextlib.contextmanager
def fronted(server: S3Server, faults: Iterable[bytes | None]) -> Iterator[Front]:
    """A front for the time of a test."""
    front = Front(server.port, faults)
    yield front
    front.close()


@contextlib.contextmanager
def dripping(beginning: bytes = b"HTTP/1.1 200 OK\r\nx-a: ") -> Iterator[str]:
    """URL of a server that never ends its answer and never is silent for long."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(beginning)
            while not over.wait(0.05):
                connection.sendall(b"a")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    over = threading.Event()
    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    over.set()
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
