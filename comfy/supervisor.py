"""Keep one instance alive: start, probe, and restart with growing pauses, from one daemon thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from comfy.instance import Instance
from core.errors import FleetError

logger = logging.getLogger(__name__)

State = Literal["starting", "healthy", "restarting", "stopped"]

#: An instance to be replaced gets this long to end by itself; ComfyUI ends at once on SIGTERM unless it hangs.
REPLACE_GRACE_S = 1.0
#: A missed probe is repeated after this long: what was silent for a whole probe timeout needs no further patience.
SECOND_LOOK_S = 0.2


class Supervisor:
    """Runs one instance until `stop`.

    Callbacks run in the supervisor's thread, and must return soon: meanwhile nothing is probed.
      on_up(): the instance answers; its `base_url` is new. If it raises a `FleetError` it is called again at each probe
        until it returns.
      on_down(reason): the instance was lost, or an attempt to start it failed, so it may come several times in a row.
        Called before what is left of the process is killed, and not because of `stop`. A `FleetError` is only logged.
    Any other exception of a callback ends the thread and the instance with it; `state` is then `stopped`.
    """

    def __init__(
        self,
        instance: Instance,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        probe_interval_s: float = 1.0,
        misses: int = 2,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        healthy_after_s: float = 60.0,
    ) -> None:
        """Parameters:
        misses: probes in a row without an answer after which a process that still runs is replaced.
        first_pause_s, longest_pause_s: the pause before a restart, doubled after each until the longest.
        healthy_after_s: an instance that lived this long starts again from the first pause.
        """
        self._instance = instance
        self._on_up, self._on_down = on_up, on_down
        self._probe_interval_s, self._misses = probe_interval_s, misses
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self._healthy_after_s = healthy_after_s
        self._pause_s = first_pause_s
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"supervise-{instance.spec.name}", daemon=True)
        self.state: State = "starting"
        #: Attempts to start the instance after the first.
        self.restarts = 0
        #: Why the instance was lost or did not start the last time.
        self.last_error: str | None = None

    def start(self) -> None:
        """Begin, in a thread of its own; a supervisor can be started once."""
        self._thread.start()

    def stop(self) -> None:
        """End the instance and the supervision of it; returns when both are over. May be called more than once."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self.state = "stopped"

    def report_lost(self) -> None:
        """Probe now: a job saw its connection to the instance end."""
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                reason = self._live()
                if self._stopping.is_set():
                    return
                self._go_down(reason)
                if self._stopping.wait(self._next_pause_s()):
                    return
                self.restarts += 1
        finally:
            self.state = "stopped"
            self._end_instance(grace_s=5.0)

    def _live(self) -> str:
        """One life of the instance, from start to loss; returns how it ended."""
        try:
            self._instance.start()
            self._instance.wait_ready(cancel=self._stopping)
        except FleetError as exc:
            return str(exc)
        self.state = "healthy"
        logger.info("%s: answers at %s", self._instance.spec.name, self._instance.base_url)
        healthy_since = time.monotonic()
        reason = self._watch()
        if time.monotonic() - healthy_since >= self._healthy_after_s:
            self._pause_s = self._first_pause_s
        return reason

    def _watch(self) -> str:
        misses = 0
        announced = False
        while not self._stopping.is_set():
            announced = announced or self._announce_up()
            self._wake.wait(min(SECOND_LOOK_S, self._probe_interval_s) if misses else self._probe_interval_s)
            self._wake.clear()
            if self._stopping.is_set():
                break
            misses = 0 if self._instance.probe() else misses + 1
            if not self._instance.is_alive:
                return f"{self._instance.spec.name} {self._instance.how_it_ended()}."
            if misses >= self._misses:
                return f"{self._instance.spec.name} no longer answers."
        return "stopped"

    def _announce_up(self) -> bool:
        try:
            self._on_up()
        except FleetError as exc:
            logger.warning("%s: is up, but saying so failed: %s", self._instance.spec.name, exc)
            return False
        return True

    def _go_down(self, reason: str) -> None:
        self.state = "restarting"
        self.last_error = reason
        logger.warning("%s: down: %s", self._instance.spec.name, reason)
        try:
            self._on_down(reason)
        except FleetError as exc:
            logger.warning("%s: is down, but saying so failed: %s", self._instance.spec.name, exc)
        self._end_instance(REPLACE_GRACE_S)

    def _end_instance(self, grace_s: float) -> None:
        try:
            self._instance.stop(grace_s)
        except FleetError as exc:
            # The next start tries again, and fails with this same reason while the process is still there.
            self.last_error = str(exc)
            logger.error("%s: %s", self._instance.spec.name, exc)

    def _next_pause_s(self) -> float:
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, self._longest_pause_s)
        return pause_s
