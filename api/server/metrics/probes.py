"""Broker, storage and certificates, looked at beside the scrapes: whatever they take, no scrape waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from api.http.time_limits import at_most
from api.server.metrics.certificates import expiries
from api.server.metrics.queue_watch import QueueWatch
from core.background import Loop, failure_of
from core.errors import BrokerUnavailable, ComfylineError
from core.messaging.broker_trial import try_broker
from core.settings import Settings
from core.storage.backend import output_storage
from core.storage.marker import StorageMarker

#: Between looks, and between those at certificates.
LOOK_S = 10.0
CERTIFICATES_S = 3600.0
#: The broker has so long to answer.
BROKER_S = 2.0
#: The first scrape of a process waits so long for its first look.
FIRST_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What was seen last; None: nothing yet."""

    broker_up: bool | None = None
    #: None while it does not answer.
    broker_ping_s: float | None = None
    #: Messages that wait, by the kind of their queue; empty while the broker does not answer.
    queue_depths: Mapping[str, int] = field(default_factory=dict)
    storage_up: bool | None = None
    #: None where there is no end to it.
    free_bytes: int | None = None
    #: By host and port, seconds since 1970.
    certificates: Mapping[str, float] = field(default_factory=dict)


class Probes:
    """One process's looks, from its first scrape on."""

    def __init__(self, settings: Settings, marker: StorageMarker) -> None:
        self._settings = settings
        self._marker = marker
        self._broker: tuple[bool | None, float | None] = (None, None)
        self._queues = QueueWatch(settings)
        self._depths: Mapping[str, int] = {}
        #: Those whose queues are looked at.
        self._instances: Collection[str] = ()
        self._storage: tuple[bool | None, int | None] = (None, None)
        self._certificates: Mapping[str, float] = {}
        self._certificates_due_s = 0.0
        self._has_looked = threading.Event()
        self._loop = Loop("probes", self._look, pause_s=LOOK_S)

    def read(self, instances: Collection[str] | None = None) -> Probed:
        """Return what was seen last.

        Parameters: instances - those of the fleet; None: as before.
        """
        if instances is not None:
            self._instances = instances
        if not self._has_looked.is_set():
            self._loop.start()
            self._loop.wake()
            self._has_looked.wait(FIRST_S)
        broker_up, ping_s = self._broker
        storage_up, free_bytes = self._storage
        return Probed(
            broker_up=broker_up,
            broker_ping_s=ping_s,
            queue_depths=self._depths,
            storage_up=storage_up,
            free_bytes=free_bytes,
            certificates=self._certificates,
        )

    def _look(self) -> None:
        self._look_at_broker()
        failure_of(self._look_at_storage, "metrics, storage")
        self._has_looked.set()
        failure_of(self._look_at_queues, "metrics, queues")
        if time.monotonic() >= self._certificates_due_s:
            self._certificates_due_s = time.monotonic() + CERTIFICATES_S
            self._certificates = expiries(self._settings)

    def _look_at_broker(self) -> None:
        begun_s = time.monotonic()
        try:
            with at_most(BROKER_S, BrokerUnavailable("The broker does not answer.")):
                try_broker(self._settings, timeout_s=BROKER_S)
        except ComfylineError:
            self._broker, self._depths = (False, None), {}
        else:
            self._broker = (True, time.monotonic() - begun_s)

    def _look_at_queues(self) -> None:
        depths: Mapping[str, int] = {}
        if self._broker[0]:
            with suppress(ComfylineError), at_most(BROKER_S, BrokerUnavailable("The broker does not answer.")):
                depths = self._queues.look(self._instances, timeout_s=BROKER_S)
        self._depths = depths

    def _look_at_storage(self) -> None:
        is_up = self._marker.problem() is None
        try:
            self._storage = (is_up, output_storage(self._settings).free_bytes() if is_up else None)
        except OSError:
            self._storage = (False, None)
