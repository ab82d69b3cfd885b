"""The main process of a GPU worker: keeps the instance alive and the ledger informed about it."""

from __future__ import annotations

import logging
import threading
from typing import Any

from comfy.client import ComfyClient
from comfy.instance import Instance
from comfy.spec import InstanceSpec
from comfy.supervisor import Supervisor
from core.errors import ComfyUnavailable, FleetError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import STOPPED, UNHEALTHY
from core.settings import Settings
from tasks.app import make_app
from tasks.maintenance import take_back
from tasks.runtime import Runtime

log = logging.getLogger(__name__)


class Keeper:
    """Owns one instance for as long as the worker lives."""

    def __init__(self, settings: Settings, spec: InstanceSpec) -> None:
        self._settings = settings
        self._spec = spec
        self._instance = Instance(spec)
        self._supervisor = Supervisor(self._instance, on_up=self._up, on_down=self._down)
        self._ledger: Ledger | None = None
        self._worker = ""
        self._stopping = threading.Event()
        #: gpu0@host: how the ledger and other machines call this instance.
        self.name = f"{spec.name}@{settings.host}"
        #: Whether the instance takes jobs; read by the consumer's gate.
        self.is_healthy = False

    def start(self, *, worker: str) -> None:
        """Register in the ledger, start the instance, and keep both alive.

        Parameters:
          worker: the Celery node name, new for each start.
        """
        self._worker = worker
        self._ledger = Ledger(self._settings, pool_size=2)
        self._persist(
            lambda ledger: ledger.instances.register(
                name=self.name, host=self._settings.host, worker=worker, kind=self._spec.kind, gpu=self._spec.gpu
            )
        )
        self._supervisor.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the instance and say so. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.is_healthy = False
        self._supervisor.stop()
        if self._ledger is not None:
            try:
                self._ledger.instances.down(self.name, worker=self._worker, state=STOPPED, reason="The worker stopped.")
            except LedgerUnavailable as exc:
                log.warning("%s: the ledger was not told about the stop: %s", self.name, exc)
            self._ledger.close()

    def interrupt(self, prompt_id: str) -> None:
        """Interrupt a prompt without keeping the caller waiting."""
        threading.Thread(target=self._interrupt, args=(prompt_id,), name="interrupt", daemon=True).start()

    def lose_jobs(self) -> None:
        """The pool process died: its jobs go to another worker now, not when their leases lapse."""
        threading.Thread(target=self._lose_jobs, name="lose-jobs", daemon=True).start()

    def _up(self) -> None:
        """Record what the instance is and offers; called again by the supervisor until it succeeds."""
        assert self._ledger is not None
        assert self._instance.base_url is not None
        client = ComfyClient(self._instance.base_url)
        try:
            stats = client.system_stats()
            object_info = client.object_info()
        finally:
            client.close()
        output_dir = self._instance.output_dir
        self._ledger.instances.up(
            self.name,
            worker=self._worker,
            url=client.base_url,
            output_dir=None if output_dir is None else str(output_dir),
            version=str(stats.get("system", {}).get("comfyui_version") or "unknown"),
            device=_device_name(stats),
            object_info=object_info,
            restarts=self._supervisor.restarts,
        )
        self.is_healthy = True

    def _down(self, reason: str) -> None:
        self.is_healthy = False
        assert self._ledger is not None
        # What follows the first line is ComfyUI's log, with paths of this host: clients see the ledger's copy.
        headline = reason.partition("\n")[0]
        self._ledger.instances.down(self.name, worker=self._worker, state=UNHEALTHY, reason=headline)

    def _beat(self) -> None:
        while not self._stopping.wait(self._settings.lease_renew_s):
            assert self._ledger is not None
            try:
                self._ledger.instances.heartbeat(self.name, worker=self._worker)
            except LedgerUnavailable as exc:
                log.warning("%s: no heartbeat written: %s", self.name, exc)

    def _interrupt(self, prompt_id: str) -> None:
        if self._instance.base_url is None:
            return
        client = ComfyClient(self._instance.base_url, read_timeout_s=10.0)
        try:
            client.interrupt(prompt_id)
        except ComfyUnavailable as exc:
            log.warning("%s: interrupt of %s failed: %s", self.name, prompt_id, exc)
        finally:
            client.close()

    def _lose_jobs(self) -> None:
        runtime = Runtime(self._settings, make_app(self._settings, "gpu"))
        try:
            runtime.ledger.claims.expire_leases(self.name)
            take_back(runtime)
        except FleetError as exc:
            log.warning("%s: jobs of a dead process not taken back yet: %s", self.name, exc)
        finally:
            runtime.close()

    def _persist(self, write: Any) -> None:
        """Do a write that the worker cannot start without, for as long as it takes."""
        while True:
            try:
                write(self._ledger)
            except LedgerUnavailable as exc:
                log.warning("%s: waiting for the ledger: %s", self.name, exc)
                if self._stopping.wait(1.0):
                    return
            else:
                return


def _device_name(stats: dict[str, Any]) -> str | None:
    devices = stats.get("devices") or [{}]
    name = devices[0].get("name")
    return None if name is None else str(name)
