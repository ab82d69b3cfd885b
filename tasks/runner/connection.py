"""A runner's session with its instance as it is now: after a restart it is another process on another port."""

from __future__ import annotations

import threading

from comfy.prompts.session import ComfySession, Pace
from core.errors import ComfyUnavailable
from core.ledger.instances import HEALTHY
from core.records.instance import InstanceRecord
from core.settings import Settings
from tasks.runtime import Runtime

#: A main process that finds its instance mute for too long has replaced it after so many seconds more.
REPLACED_WITHIN_S = 60.0

Connected = tuple[InstanceRecord, ComfySession]


class Connection:
    """Shared by the threads of one runner."""

    def __init__(self, runtime: Runtime, instance_name: str) -> None:
        self._runtime = runtime
        self._name = instance_name
        #: Held by whoever changes anything of the following.
        self._changing = threading.Lock()
        #: Instance and session belong together, so they come and go together; None: to be made.
        self._connected: Connected | None = None
        self._session: ComfySession | None = None
        self._is_closed = False

    def get(self) -> Connected:
        """Return the instance, and a session that is connected with it.

        Raises: ComfyUnavailable - it is not healthy, or does not answer, or this worker ends.
        """
        # One look, for another thread may `lose` it at any moment.
        connected = self._connected
        if connected is not None and connected[1].is_connected:
            return connected
        with self._changing:
            if self._is_closed:
                raise ComfyUnavailable(f"The worker of {self._name} ends.")
            self._connected = self._connect()
            return self._connected

    def pass_on_if_barred(self) -> None:
        """A turn that came while the instance is drained, or full, is somebody else's; it must not be used up here.

        Raises: ComfyUnavailable - it takes no jobs.
        """
        record = self._runtime.ledger.instances.get(self._name)
        if record is not None and record.state != HEALTHY:
            raise ComfyUnavailable(f"{self._name} takes no jobs: it is {record.state}.")

    def lose(self) -> None:
        """Forget the instance, which is of no use any more; the next call looks anew which one there is."""
        with self._changing:
            self._connected = None

    def close(self) -> None:
        """Leave the instance, for good."""
        with self._changing:
            self._is_closed, self._connected = True, None
            if self._session is not None:
                self._session.close()

    def _connect(self) -> Connected:
        instance = self._runtime.ledger.instances.get(self._name)
        if instance is None or instance.state != HEALTHY or instance.url is None:
            raise ComfyUnavailable(f"{self._name} is not healthy.")
        if self._session is None or self._session.client.base_url != instance.url:
            if self._session is not None:
                self._session.close()
            self._session = ComfySession(instance.url, pace=_pace(self._runtime.settings, instance))
            if instance.kind != "attached":
                # Whatever runs there was posted by a predecessor of this process that is dead.
                self._session.client.clear()
        self._session.open()
        return instance, self._session


def _pace(settings: Settings, instance: InstanceRecord) -> Pace:
    """Return the time limits for an instance.

    One of ours is replaced by its main process when it has been mute for too long, and then refuses connections; a
    machine elsewhere may be gone without a word.
    """
    if instance.kind == "attached":
        return Pace(interrupt_grace_s=settings.interrupt_grace_s, mute_s=settings.mute_s)
    limit_s = settings.mute_s + REPLACED_WITHIN_S
    return Pace(interrupt_grace_s=settings.interrupt_grace_s, mute_s=limit_s, unresponsive_s=limit_s)
