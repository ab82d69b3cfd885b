"""A process says that it is there, with its version, and hears what a rollout wants of it."""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from core.background import Loop, in_background
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.outbound.own_command import run_command
from core.records.rollout import ANEW, COMMAND_OK, UPGRADE, Renewal
from core.rollouts.anew import PROGRAM, start_anew
from core.settings import Settings

log = logging.getLogger(__name__)

#: Between looks at what is wanted, and between signs of life.
LOOK_S = 3.0
NOTE_S = 12.0
#: Of one whose life others see from elsewhere: only so that a row that is gone comes again.
RARE_NOTE_S = 3600.0
#: In the environment of the command that upgrades: the version that is wanted.
VERSION_VARIABLE = "UPGRADE_VERSION"


class ProcessWatch:
    """One process's watch, from `start` until `close`."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        role: str,
        *,
        follow: Callable[[Renewal | None], None],
        process_id: str | None = None,
        lives_elsewhere: bool = False,
        time_limit: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Parameters:
        role: gpu, io, api or beat.
        follow: is told again and again what a rollout wants of this process; None: nothing.
        process_id: of a GPU worker its Celery node name.
        lives_elsewhere: others see from elsewhere that it lives, as that of a GPU worker from its instance's row.
        time_limit: ends what the ledger does not answer.
        """
        self._settings = settings
        self._ledger = ledger
        self._role = role
        self._follow = follow
        self._id = process_id or str(uuid.uuid4())
        self._note_s = RARE_NOTE_S if lives_elsewhere else NOTE_S
        self._time_limit = time_limit
        self._noted_at_s: float | None = None
        self._upgrading = False
        self._loop = Loop(f"rollouts-{role}", self._step, pause_s=LOOK_S)

    def start(self) -> None:
        """Begin to look."""
        self._loop.start()

    def close(self) -> None:
        """Say that this process ends, and look no more."""
        self._loop.end()
        self._loop.join(LOOK_S)
        with suppress(LedgerUnavailable), self._time_limit():
            self._ledger.processes.forget(self._id)

    def _step(self) -> None:
        # Others say that the ledger is away; what was wanted last holds until it is back.
        with suppress(LedgerUnavailable), self._time_limit():
            self._look()

    def _look(self) -> None:
        wanted = self._note() if self._is_due() else self._ledger.processes.wanted(self._id)
        if wanted == UPGRADE:
            self._upgrade()
        self._follow(wanted)

    def _is_due(self) -> bool:
        return self._noted_at_s is None or time.monotonic() - self._noted_at_s > self._note_s

    def _note(self) -> Renewal | None:
        wanted = self._ledger.processes.note(
            self._id,
            role=self._role,
            host=self._settings.host,
            program=PROGRAM,
            can_upgrade=bool(self._settings.upgrade_command),
        )
        self._noted_at_s = time.monotonic()
        return wanted

    def _upgrade(self) -> None:
        order = self._ledger.rollouts.command_for(self._id)
        if order is None or self._upgrading:
            return
        self._upgrading = True
        log.info("a rollout brings version %s to this host by COMFYLINE_UPGRADE_COMMAND", order.version)

        def run() -> None:
            try:
                wrong = run_command(
                    "COMFYLINE_UPGRADE_COMMAND",
                    self._settings.upgrade_command,
                    limit_s=order.limit_s,
                    variables={VERSION_VARIABLE: order.version},
                )
                log.info("%s", wrong or "COMFYLINE_UPGRADE_COMMAND has ended well")
                self._tell(wrong or COMMAND_OK)
            finally:
                self._upgrading = False

        in_background("upgrade", run)

    def _tell(self, said: str) -> None:
        while not self._loop.is_ending:
            try:
                with self._time_limit():
                    self._ledger.rollouts.command_ended(self._id, said)
                return
            except LedgerUnavailable:
                self._loop.rest(LOOK_S)


class SelfRenewal:
    """A process that ends itself as by an operator's SIGTERM when a rollout wants so, and then starts anew."""

    def __init__(self, settings: Settings, ledger: Ledger, role: str) -> None:
        self._is_due = False
        self._watch = ProcessWatch(settings, ledger, role, follow=self._follow)
        self._watch.start()

    def close(self) -> None:
        """Say that this process ends."""
        self._watch.close()

    def start_anew_if_due(self) -> None:
        """Become the new process, where that was wanted; all that this one did has ended."""
        if self._is_due:
            start_anew()

    def _follow(self, wanted: Renewal | None) -> None:
        if wanted == ANEW and not self._is_due:
            log.info("a rollout renews this process")
            self._is_due = True
            os.kill(os.getpid(), signal.SIGTERM)
