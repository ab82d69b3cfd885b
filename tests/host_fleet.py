"""A fleet whose every part is a host of its own: two with GPUs, an API, a database, a broker, a bucket, the web.

The hosts are network namespaces. Where those cannot be made they are data directories of one machine, with CI=true a
failure: then nothing can be cut off, and tests that do so are skipped and say why.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from comfy.liveness.procfs import with_variable
from core.ledger import Ledger
from core.settings import Settings
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.fleet import Fleet
from tests.model_server import ModelServer, model_server
from tests.namespaces import NETWORK, Namespace, Topology, why_not
from tests.own_servers import RABBITMQ, OwnPostgres, OwnRabbit, OwnRedis
from tests.receivers import Receiver, receiving
from tests.s3_server import Gate, S3Server
from tests.waiting import eventually

HOSTS = ("api", "database", "broker", "bucket", "web", "one", "two", "client")
GPU_HOSTS = ("one", "two")
#: Tells the processes of one host from all others, where it is no namespace.
HOST_VARIABLE = "HOST_OF_A_TEST"
#: Room for two model files of this size.
MODEL_BYTES, MODELS_MAX_BYTES = 2_000_000, 5_000_000


class HostFleet(Fleet):
    """The processes of one host."""

    def __init__(self, root: Path, namespace: Namespace | None, **settings: str) -> None:
        super().__init__(root, **settings)
        self.namespace = namespace
        self._mark = uuid.uuid4().hex
        self.with_variables(**{HOST_VARIABLE: self._mark})
        if namespace is not None:
            self.base_url = f"http://{namespace.address}:{self.port}"

    def start(self, *names: str) -> HostFleet:
        """Start processes on this host."""
        with within(self.namespace):
            super().start(*names)
        return self

    def die(self) -> None:
        """Lose the whole host in a moment: every process that runs on it."""
        if self.namespace is not None:
            self.namespace.kill()
        else:
            assert eventually(self._kill_marked, 10.0)
        for name in list(self.processes):
            self.processes.pop(name).wait(10)

    def _kill_marked(self) -> bool:
        for pid in with_variable(HOST_VARIABLE, self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not with_variable(HOST_VARIABLE, self._mark)


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """A fleet of hosts."""

    #: By their names; empty where they are no namespaces.
    namespaces: dict[str, Namespace]
    api: HostFleet
    one: HostFleet
    two: HostFleet
    s3: S3Server
    #: All reach the bucket through it.
    gate: Gate
    web: ModelServer
    receiver: Receiver
    ledger: Ledger

    def namespace(self, name: str) -> Namespace:
        """A host that can be cut off; skips the test where there is none."""
        if name not in self.namespaces:
            pytest.skip(f"hosts are data directories here, and cannot be cut off: {why_not()}")
        return self.namespaces[name]

    def host_of(self, job_id: str) -> HostFleet:
        """The GPU host that has a job."""
        instance = self.ledger.jobs.get(job_id).instance or ""
        return {"gpu0@one": self.one, "gpu0@two": self.two}[instance]

    def objects(self, area: str) -> list[str]:
        """The keys of the files in a part of the bucket."""
        beginning = f"files/{area}/"
        listed = self.s3.client.list_objects_v2(Bucket=BUCKET, Prefix=beginning).get("Contents", ())
        return [item["Key"].removeprefix(beginning) for item in listed]


def within(namespace: Namespace | None) -> contextlib.AbstractContextManager[None]:
    """Be on a host for a while."""
    return contextlib.nullcontext() if namespace is None else namespace.entered()


@contextlib.contextmanager
def hosts(folder: Path, *, prefers_rabbitmq: bool = False) -> Iterator[Hosts]:
    """Start everything; this thread is the client's host meanwhile, and both GPUs are healthy.

    Parameters:
      prefers_rabbitmq: the broker is one, where there is the program or has to be, and else a Redis.
    """
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(_topology())
        on = {name: found.get(name) for name in HOSTS}
        address = {name: "127.0.0.1" if each is None else each.address for name, each in on.items()}

        # The client's last, so that all that follows is its own.
        with within(on["database"]):
            postgres = OwnPostgres(address["database"])
            stack.callback(postgres.remove)
            postgres.start()
            database_url = postgres.new_database()
        with within(on["broker"]):
            is_rabbitmq = prefers_rabbitmq and (RABBITMQ.exists() or os.environ.get("CI") == "true")
            kind = OwnRabbit if is_rabbitmq else OwnRedis
            broker = kind(folder / "broker", address["broker"])
            stack.callback(broker.stop)
            broker.start()
        with within(on["bucket"]):
            s3 = S3Server(address["bucket"])
            stack.callback(s3.stop)
            gate = Gate(s3.port, address["bucket"])
            stack.callback(gate.close)
            s3.empty(BUCKET)
        with within(on["web"]):
            web = stack.enter_context(model_server(address["web"]))
            receiver = stack.enter_context(receiving(address=address["web"]))
        stack.enter_context(within(on["client"]))

        settings = {
            "database_url": database_url,
            "broker_url": broker.url,
            "secret_key": base64.b64encode(os.urandom(32)).decode(),
            "allow_networks": NETWORK if found else "loopback",
            **bucket_settings(gate.url),
            "storage_redirect": "true",
            "simulated_gpus": "1",
            "simulator_args": "--preview-method auto",
            "models_allow_http": "true",
            "lease_renew_s": "0.5",
            "lease_s": "5",
            "reconcile_s": "1",
            "host_lost_s": "30",
            "min_free_disk_bytes": "0",
        }
        api = _fleet(folder, "api", on, settings | {"api_host": address["api"]})
        one, two = (_fleet(folder, name, on, settings | _models(folder, name)) for name in GPU_HOSTS)
        for fleet in (api, one, two):
            # Nobody waits for what they would have done at their ends.
            stack.callback(fleet.die)
        api.start("api", "beat")
        for fleet in (one, two):
            fleet.start("gpu0", "io")
        api.ready(gpus=2, timeout_s=90)
        reading = Settings(data_dir=api.data_dir, database_url=database_url)
        ledger = stack.enter_context(contextlib.closing(Ledger(reading)))
        yield Hosts(
            namespaces=found,
            api=api,
            one=one,
            two=two,
            s3=s3,
            gate=gate,
            web=web,
            receiver=receiver,
            ledger=ledger,
        )


@contextlib.contextmanager
def _topology() -> Iterator[dict[str, Namespace]]:
    if (problem := why_not()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and {problem}")
        yield {}
        return
    with Topology(HOSTS) as topology:
        for name in GPU_HOSTS:
            topology.hosts[name].guard()
        yield topology.hosts


def _fleet(folder: Path, name: str, on: dict[str, Namespace | None], settings: dict[str, str]) -> HostFleet:
    (folder / name).mkdir()
    return HostFleet(folder / name, on[name], host=name, **settings)


def _models(folder: Path, name: str) -> dict[str, str]:
    place = folder / f"models-{name}"
    place.mkdir()
    return {"models_dir": str(place), "models_max_bytes": str(MODELS_MAX_BYTES)}
