"""The name of an instance in the ledger: which worker has it, and when another may take it.

Two machines of one name (`COMFYLINE_HOST`) would take `gpu0@name` from each other. So a name that another worker has is
taken only when that worker has stopped, was an earlier one in the same directory (which we hold, so it is dead), or
shows no sign of life for as long as silence may last. Life is a heartbeat that changes while we look: clocks of two
machines need not agree.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

from comfy.process.spec import InstanceSpec
from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import SILENCE_MS, NameOwner
from core.machine import boot_id
from core.settings import Settings
from tasks.instance.directory_lock import place_of

log = logging.getLogger(__name__)

#: Seconds between looks at another worker's heartbeat.
LOOK_S = 0.5


class NameTaken(ConfigurationError):
    """The name of an instance belongs to a worker of another machine, which is alive."""


class Tenure:
    """One worker's hold on the name of its instance. Used by one thread at a time."""

    def __init__(
        self, settings: Settings, spec: InstanceSpec, *, worker: str, silence_s: float = SILENCE_MS / 1000
    ) -> None:
        """Parameters:
        worker: the Celery node name, new for each start.
        silence_s: another worker that shows no life for so long has lost the name.
        """
        self.name = f"{spec.name}@{settings.host}"
        self.worker = worker
        #: Whoever has the name instead of us; None while it is ours.
        self.rival: NameOwner | None = None
        #: Whether the rival has shown life since we saw it first.
        self.rival_lives = False
        self._settings = settings
        self._spec = spec
        self._seen_at_s = 0.0
        self._silence_s = silence_s

    def take(self, ledger: Ledger) -> bool | None:
        """Take the name, or keep it; a row that is gone is made again.

        Returns: whether the instance is to be drained; None when another worker has the name (`rival`).
        """
        is_drained = ledger.instances.register(
            name=self.name,
            host=self._settings.host,
            worker=self.worker,
            kind=self._spec.kind,
            gpu=self._spec.gpu,
            place=place_of(self._spec.data_dir),
            pid=os.getpid(),
            over=self.rival if self._has_been_silent() else None,
            pool=self._settings.pool or None,
        )
        if is_drained is None:
            self.owner(ledger)
        else:
            self.rival, self.rival_lives = None, False
        return is_drained

    @property
    def problem(self) -> str:
        """Return, for people, which worker has the name, and what to do."""
        return (
            f"{self.name} belongs to another worker that is alive: {self.rival}. Two machines of one fleet must not "
            f"have the same name; set COMFYLINE_HOST (now {self._settings.host}) to another one on one of them."
        )

    def _has_been_silent(self) -> bool:
        return self.rival is not None and time.monotonic() - self._seen_at_s > self._silence_s

    def owner(self, ledger: Ledger) -> NameOwner | None:
        """Look at who has the name, and change nothing; None: nobody has, or had."""
        found = ledger.instances.owner_of(self.name)
        if found != self.rival:
            self.rival_lives = found is not None and self.rival is not None and found.worker == self.rival.worker
            self.rival, self._seen_at_s = found, time.monotonic()
        return found

    @property
    def is_foreign(self) -> bool:
        """Whether who has the name lived in another directory than ours."""
        return self.rival is not None and self.rival.place != place_of(self._spec.data_dir)


def check_host_name(settings: Settings, ledger: Ledger) -> None:
    """See that this machine's name is not another's, for an io worker: it would be sent to store files it has not.

    Raises:
      ConfigurationError: GPU workers of another machine have this name.
      LedgerUnavailable: the ledger does not answer.
    """
    ours = boot_id()
    for found in ledger.instances.owners_on(settings.host) if ours else ():
        machine = (found.place or "").partition(" ")[0]
        # Other than a boot id, a host name stands there where a sandbox hides it.
        if len(machine) == len(ours) and machine != ours:
            raise ConfigurationError(
                f"The name {settings.host} belongs to another machine, which runs {found}. Two machines of one fleet "
                f"must not have the same name; set COMFYLINE_HOST (now {settings.host}) to another one on one of them."
            )


def refuse_taken_names(
    settings: Settings, specs: Sequence[InstanceSpec], ledger: Ledger, *, wait: Callable[[float], object] = time.sleep
) -> None:
    """See that no other machine has the names of this one's instances, before workers find out one by one.

    Whoever shows no sign of life while two are due, a predecessor that crashed for one, is left to the workers: they
    know how long to wait.

    Raises:
      NameTaken: a worker that is alive has one of them.
      LedgerUnavailable: the ledger does not answer.
    """
    heard = {found.worker for found in ledger.instances.owners_on(settings.host)}
    looks = []
    for look in (Tenure(settings, spec, worker="") for spec in specs):
        found = look.owner(ledger)
        if found is not None and found.worker in heard and look.is_foreign:
            looks.append(look)
    ends_at_s = time.monotonic() + 2 * settings.lease_renew_s + LOOK_S
    while looks and time.monotonic() < ends_at_s:
        wait(LOOK_S)
        for look in looks:
            look.owner(ledger)
            if look.rival_lives:
                raise NameTaken(look.problem)


def take_or_refuse(tenure: Tenure, ledger: Ledger, *, wait: Callable[[float], object] = time.sleep) -> None:
    """Take the name at a worker's start.

    Raises:
      NameTaken: another worker that is alive has it.
    """
    is_said = False
    while True:
        try:
            if tenure.take(ledger) is not None:
                return
        except LedgerUnavailable as exc:
            log.warning("%s: waiting for the ledger: %s", tenure.name, exc)
        if tenure.rival_lives:
            raise NameTaken(tenure.problem)
        if tenure.rival is not None and not is_said:
            is_said = True
            log.warning("%s was taken by %s; waiting to see whether that one is alive.", tenure.name, tenure.rival)
        wait(LOOK_S)
