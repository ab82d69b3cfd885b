"""A real API server over a real ledger, and stand-ins for the workers that move its jobs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import requests
from blake3 import blake3
from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, make_server

from api import create_app
from api.service.waiting import Hub
from core import background
from core.errors import InstanceUnreachable
from core.ledger import Change, Ledger
from core.ledger.claims import Claim
from core.ledger.upgrade import migrate
from core.messaging.notices import Notice
from core.records.instance import InstanceRecord
from core.records.output import FileSource, OutputFile
from core.settings import Settings
from core.storage.backend import StorageBackend, output_storage
from core.storage.placing import LocalFile
from tests.makers import GRAPH
from tests.ports import free_port
from tests.services import missing
from tests.unit.catalogue_literals import CATALOGUE
from tests.waiting import PATIENCE

ROOT = Path(__file__).parent.parent.parent
INSTANCE = "gpu0@test"
POSTGRES_URL = os.environ.get("COMFYLINE_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("COMFYLINE_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")


class RecordingPublisher:
    """Stands where the broker would: keeps what it was given."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.notified: list[str] = []
        self.canceled: list[str] = []
        self.asked: list[tuple[str, str]] = []
        #: Workers that do not answer operators.
        self.mute: set[str] = set()
        self.reaches_workers = False
        self.checks: list[str] = []
        #: How often idle instances were to be woken because a gate had opened.
        self.gates_passed = 0

    def turn(self, job_id: str) -> bool:
        self.turns.append(job_id)
        return True

    def notify(self, job_id: str) -> bool:
        self.notified.append(job_id)
        return True

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        self.canceled.append(job_id)

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        raise AssertionError("the API has no job's files stored")

    def ask(self, command: str, instance: InstanceRecord) -> None:
        if instance.worker in self.mute:
            raise InstanceUnreachable(f"The worker of {instance.name} does not answer.")
        self.asked.append((command, instance.name))

    def check_upload(self, upload_id: str) -> bool:
        self.checks.append(upload_id)
        return True

    def pass_gates(self) -> bool:
        self.gates_passed += 1
        return True

    def look_again(self) -> bool:
        return self.reaches_workers


class Worker:
    """Moves jobs through the ledger as a GPU worker and the upload task do."""

    def __init__(self, ledger: Ledger, outputs_dir: Path, storage: StorageBackend | None = None) -> None:
        self.ledger = ledger
        self._storage = storage
        self.outputs_dir = outputs_dir
        self._known: set[str] = set()

    def come_up(
        self, name: str = INSTANCE, object_info: dict[str, Any] | None = None, *, pool: str | None = None
    ) -> None:
        instances = self.ledger.instances
        instances.register(name=name, host="test", worker="w", kind="simulator", gpu="0")
        instances.up(
            name,
            worker="w",
            url="http://127.0.0.1:1",
            output_dir=None,
            version="0.3.64",
            device="cuda:0 SIMULATED",
            object_info=object_info or CATALOGUE,
            restarts=0,
            pool=pool,
        )
        self._known.add(name)

    def beat(self) -> None:
        """Be heard of, as a worker is every few seconds: a module's tests may take longer than one may be silent."""
        for name in self._known:
            record = self.ledger.instances.get(name)
            if record is not None and record.state == "healthy":
                self.ledger.instances.heartbeat(
                    name,
                    worker="w",
                    state=record.state,
                    reason=record.reason,
                    is_drained=False,
                    restarts=record.restarts,
                )

    def claim(self, job_id: str) -> Claim:
        claim = self.ledger.claims.claim(INSTANCE, named=job_id)
        assert claim is not None
        assert claim.job_id == job_id
        return claim

    def finish(self, claim: Claim, *contents: bytes, names: tuple[str, ...] = ("a_00001_.png",)) -> None:
        files = [
            OutputFile(
                id=str(uuid.uuid4()),
                job_id=claim.job_id,
                node_id="2",
                name=name,
                kind="image",
                content_type="image/png",
                source=FileSource(text=""),
            )
            for _, name in zip(contents, names, strict=True)
        ]
        self.ledger.claims.generated(claim, files, outputs_reused=False)
        stored = [self._store(*pair) for pair in zip(files, contents, strict=True)]
        self.ledger.outputs.succeed(claim.job_id, claim.attempt, stored)

    def run(self, job_id: str, *contents: bytes) -> None:
        self.finish(self.claim(job_id), *contents, names=tuple(f"a_{n:05}_.png" for n in range(len(contents))))

    def run_next(self, *contents: bytes, timeout_s: float = 10.0) -> str:
        """Wait for a queued job and run it."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while time.monotonic() < deadline:
            claim = self.ledger.claims.claim(INSTANCE)
            if claim is not None:
                self.finish(claim, *contents, names=tuple(f"a_{n:05}_.png" for n in range(len(contents))))
                return claim.job_id
            time.sleep(0.02)
        raise AssertionError("no job was queued")

    def _store(self, file: OutputFile, content: bytes) -> OutputFile:
        key = f"{file.job_id}/{file.id}/{file.name}"
        path = self.outputs_dir / key
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        digest = f"blake3:{blake3(content).hexdigest()}"
        if self._storage is not None:
            self._storage.keep([LocalFile(key=key, path=path, digest=digest, content_type=file.content_type)])
        return replace(file, storage_key=key, size_bytes=len(content), hash=digest)


@dataclass
class Api:
    """A running server and what stands behind it."""

    url: str
    settings: Settings
    ledger: Ledger
    worker: Worker
    hub: Hub
    publisher: RecordingPublisher = field(default_factory=RecordingPublisher)
    session: requests.Session = field(default_factory=requests.Session)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=10, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> requests.Response:
        if body is not None:
            kwargs["json"] = body
        return self.session.post(self.url + path, timeout=20, **kwargs)

    def submit(self, **fields: Any) -> str:
        self.worker.beat()
        answer = self.post("/api/v2/jobs", {"workflow": GRAPH, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


def settings_for(directory: Path, **overrides: Any) -> Settings:
    return Settings(data_dir=directory, **overrides)


@contextmanager
def running_api(settings: Settings, *, host: str = "127.0.0.1") -> Iterator[Api]:
    """The application in threads of this process. Parameters: host - where it listens."""
    migrate(settings)

    def announce(change: Change) -> None:
        hub.notify(Notice(job_id=change.job_id, kind="status", seq=change.seq, status=change.status))

    ledger = Ledger(settings, on_change=announce)
    hub = Hub(ledger.jobs.states, ledger.jobs.many, poll_s=0.3)
    publisher = RecordingPublisher()
    app: Flask = create_app(settings, ledger=ledger, publisher=publisher, hub=hub, ask=publisher.ask)
    server = make_server(host, 0, app, threaded=True)
    assert isinstance(server, ThreadedWSGIServer)
    # A stream that is still open must not hold up the end of a test.
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    api = Api(
        url=f"http://127.0.0.1:{server.server_port}",
        settings=settings,
        ledger=ledger,
        worker=Worker(ledger, settings.outputs_dir, output_storage(settings)),
        hub=hub,
        publisher=publisher,
    )
    try:
        yield api
    finally:
        api.session.close()
        server.shutdown()
        thread.join()
        server.server_close()
        # A served process has its probes until it ends; here they would look into other tests.
        for loop in [each for each in background._registry.started if each.name == "probes"]:
            loop.end()
        hub.close()
        ledger.close()


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of an empty database of our own; skips when there is no server."""
    name = f"fleet_api_{uuid.uuid4().hex[:12]}"
    try:
        admin = psycopg.connect(POSTGRES_URL, autocommit=True, connect_timeout=2)
    except psycopg.OperationalError:
        missing("no PostgreSQL answers (set COMFYLINE_TEST_POSTGRES_URL)")
    with closing(admin):
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield POSTGRES_URL.rsplit("/", 1)[0] + f"/{name}"
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def gunicorn_api(settings: Settings, *arguments: str, **environment: str) -> Iterator[str]:
    """The application as it is served: gunicorn with gevent, in processes of its own. Yields its URL.

    Parameters:
      arguments: further ones for gunicorn, for instance another application.
    """
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMFYLINE_")}
    env |= {
        "COMFYLINE_DATA_DIR": str(settings.data_dir),
        "COMFYLINE_DATABASE_URL": settings.database_url,
        "COMFYLINE_BROKER_URL": settings.broker_url,
        "COMFYLINE_BROKER_NAMESPACE": settings.broker_namespace,
        "COMFYLINE_API_PORT": str(port),
        # At the end of a test nobody waits for an answer any more.
        "GUNICORN_CMD_ARGS": "--graceful-timeout 1",
        **environment,
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_config", *arguments]
    log = (settings.data_dir / "gunicorn.log").open("w")
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _await_health(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20 * PATIENCE)
        log.close()


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40 * PATIENCE
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.05)
        assert process.poll() is None, "gunicorn ended at once"
    raise AssertionError("gunicorn did not start")


class FreezableProxy:
    """A TCP relay that can stop passing anything on, as a peer does that was stopped or cut off."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._running = threading.Event()
        self._running.set()
        self._closed = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def close(self) -> None:
        self._closed = True
        self._running.set()
        for each in self._sockets:
            with closing(each):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _accept(self) -> None:
        while not self._closed:
            try:
                inner, _ = self._server.accept()
                self._running.wait()
                outer = socket.create_connection(self._target)
            except OSError:
                return
            self._sockets += [inner, outer]
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._running.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def sse_frames(text: str) -> list[tuple[str, dict[str, Any]]]:
    """`(event, data)` of a finished stream, without comments."""
    found: list[tuple[str, dict[str, Any]]] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found
