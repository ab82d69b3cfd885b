"""A fleet of machines that share a ledger, a broker and a bucket, and no directory: each has its own data directory."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.ledger import Ledger
from core.settings import Settings
from tests.faulty_bucket import FaultyBucket
from tests.fleet import Fleet
from tests.s3_server import Gate, S3Server
from tests.services import Broker

BUCKET = "fleet"


def bucket_settings(url: str) -> dict[str, str]:
    """The settings of a fleet whose storage is a bucket at an address."""
    return {
        "storage_url": f"s3://{BUCKET}/files",
        "storage_endpoint_url": url,
        "storage_access_key_id": "own-key",
        "storage_secret_access_key": "own-secret",
    }


@dataclass(frozen=True, kw_only=True)
class Machines:
    """An API host with the clock, and two GPU hosts that each have an io worker."""

    s3: S3Server
    #: All of them reach the bucket through it, and through what stands behind it.
    gate: Gate
    front: FaultyBucket
    api: Fleet
    one: Fleet
    two: Fleet
    ledger: Ledger

    def objects(self, area: str) -> dict[str, int]:
        """The size of each file in the bucket, by its key."""
        beginning = f"files/{area}/"
        listed = self.s3.client.list_objects_v2(Bucket=BUCKET, Prefix=beginning).get("Contents", ())
        return {item["Key"].removeprefix(beginning): item["Size"] for item in listed}


@contextlib.contextmanager
def machines(
    folder: Path, broker: Broker, database_url: str, *, with_models: bool = False, **more: str
) -> Iterator[Machines]:
    """Start the machines; the GPU workers and io workers of both GPU hosts are up when this returns.

    Parameters:
      with_models: each host has a folder `models` of its own, for model files that it fetches.
    """
    s3 = S3Server()
    s3.empty(BUCKET)
    front = FaultyBucket(s3.port)
    gate = Gate(front.port)
    common = {
        "database_url": database_url,
        "broker_url": broker.url,
        "broker_namespace": broker.namespace,
        "secret_key": base64.b64encode(b"k" * 32).decode(),
        "simulated_gpus": "1",
        "lease_renew_s": "0.5",
        "lease_s": "5",
        "reconcile_s": "1",
        **bucket_settings(gate.url),
        **more,
    }
    own: dict[str, dict[str, str]] = {}
    for name in ("api", "one", "two"):
        (folder / name / "models").mkdir(parents=True)
        own[name] = {"models_dir": str(folder / name / "models")} if with_models and name != "api" else {}
    with contextlib.ExitStack() as stack:
        stack.callback(s3.stop)
        stack.callback(front.close)
        stack.callback(gate.close)
        api, one, two = (
            stack.enter_context(Fleet(folder / name, host=name, **common, **own[name]))
            for name in ("api", "one", "two")
        )
        api.start("api", "beat")
        one.start("gpu0", "io")
        two.start("gpu0", "io")
        api.ready(gpus=2, timeout_s=60)
        settings = Settings(data_dir=api.data_dir, database_url=database_url)
        ledger = stack.enter_context(contextlib.closing(Ledger(settings)))
        yield Machines(s3=s3, gate=gate, front=front, api=api, one=one, two=two, ledger=ledger)
