"""Kills, freezes and restarts the processes of a fleet, one after the other, as a seed decides, and keeps a record."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.clock import now_ms
from tests.fleet import Fleet

WORKER, POOL, SIMULATOR, FREEZE, TERM = "worker killed", "pool killed", "simulator killed", "frozen", "restarted"
API, IO, BEAT, BROKER, FORGET = "api killed", "io killed", "beat killed", "broker killed", "broker emptied"
#: What can cost the jobs on one GPU an attempt.
DISRUPTIVE = frozenset({WORKER, POOL, SIMULATOR, FREEZE, TERM})
_NAMES = {API: "api", IO: "io", BEAT: "beat", BROKER: "broker"}
#: How often each comes in one round; a round is shuffled.
ROUND = [WORKER, WORKER, POOL, POOL, SIMULATOR, SIMULATOR, FREEZE, TERM, TERM, API, IO, BEAT]
#: A worker that was started so lately may not have begun to consume yet.
YOUNG_S = 20.0
#: A worker that loses its broker gives up, if ever, within this time.
LOST_BROKER_MS = 10_000
#: A warm shutdown waits for the running job, which is short here.
EXIT_S = 60.0


@dataclass(kw_only=True)
class Strike:
    """One thing that was done to the fleet."""

    number: int
    kind: str
    target: str
    at_ms: int
    #: When what was ended was started again, or what was frozen woke up.
    mended_ms: int | None = None

    def __str__(self) -> str:
        mended = "not mended" if self.mended_ms is None else f"mended at {self.mended_ms}"
        what = self.kind if self.kind.startswith(self.target) else f"{self.target} {self.kind}"
        return f"#{self.number} at {self.at_ms}: {what}, {mended}"


@dataclass(kw_only=True)
class _Repair:
    strike: Strike
    due_s: float
    #: Returns False when it is to be tried again.
    mend: Callable[[], bool]


class Monkey:
    """What happens to one fleet.

    Parameters:
      gpus: the GPU workers it may touch.
      seed: decides what is done to whom, in which order; when exactly it happens, the machine decides.
      kinds: one round; each kind in it comes up once before any comes again.
      forget: empties the broker, for the kind `FORGET`.
    """

    def __init__(
        self,
        fleet: Fleet,
        seed: int,
        *,
        gpus: Sequence[str],
        kinds: Sequence[str],
        frozen_s: float,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.strikes: list[Strike] = []
        #: What went wrong with the processes themselves.
        self.problems: list[str] = []
        self._fleet = fleet
        self._seed = seed
        self._gpus = list(gpus)
        self._kinds = list(kinds)
        self._round: list[str] = []
        self._frozen_s = frozen_s
        self._forget = forget
        self._repairs: list[_Repair] = []
        self._started_s: dict[str, float] = {}
        #: Workers whose pool process was killed while they were being started.
        self._hit_young: set[str] = set()

    def strike(self) -> bool:
        """Do the next thing; False if there is nothing left to do it to at this moment."""
        # Drawn anew for each number, so that trying again changes nothing that comes later.
        number = len(self.strikes)
        source = random.Random(f"monkey-{self._seed}-{number}")
        if not self._round:
            self._round = source.sample(self._kinds, len(self._kinds))
        kind = self._round[-1]
        target = source.choice(self._gpus) if kind in DISRUPTIVE else _NAMES.get(kind, "broker")
        if self._is_down(target):
            return False
        strike = Strike(number=number, kind=kind, target=target, at_ms=now_ms())
        if not self._do(strike, pause_s=source.uniform(0.0, 1.0)):
            return False
        self._round.pop()
        self.strikes.append(strike)
        return True

    def mend(self) -> None:
        """Start again what is due."""
        for repair in list(self._repairs):
            if time.monotonic() >= repair.due_s and repair.mend():
                repair.strike.mended_ms = now_ms()
                self._repairs.remove(repair)

    def mend_all(self) -> None:
        """Start everything again that was ended."""
        while self._repairs:
            self.mend()
            time.sleep(0.05)

    def watch(self) -> None:
        """Note, and start again, what ended although nobody touched it."""
        for name, process in list(self._fleet.processes.items()):
            status = process.poll()
            if status is not None and not self._is_down(name):
                if status == 0 or not self._may_fail(name):
                    log = self._fleet.log(name)[-1500:]
                    self.problems.append(f"{name} ended by itself with status {status}: ...{log}")
                self._start(name)

    def _may_fail(self, name: str) -> bool:
        """Celery gives up, with an error, when its pool process dies before it has begun to consume, and sometimes when
        it loses a broker while it holds messages. Who runs a fleet starts what failed again."""
        broken = any(strike.kind == BROKER and now_ms() - strike.at_ms < LOST_BROKER_MS for strike in self.strikes)
        return broken or name in self._hit_young

    def _is_young(self, name: str) -> bool:
        return time.monotonic() - self._started_s.get(name, float("-inf")) < YOUNG_S

    def _is_down(self, name: str) -> bool:
        return any(repair.strike.target == name for repair in self._repairs)

    def _do(self, strike: Strike, *, pause_s: float) -> bool:
        name = strike.target
        if strike.kind in (WORKER, API, IO, BEAT, BROKER):
            self._fleet.kill(name)
            self._later(strike, pause_s, lambda: self._start(name))
            return True
        if strike.kind == TERM:
            if self._fleet.living_instance_pid(name) is None:
                # It is still being loaded, and does not yet listen to signals.
                return False
            self._fleet.signal(name, signal.SIGTERM)
            give_up_s = time.monotonic() + EXIT_S
            self._later(strike, 0.0, lambda: self._restart_ended(name, give_up_s))
            return True
        if strike.kind == FORGET:
            self._forget()
            strike.mended_ms = now_ms()
            return True
        if strike.kind == FREEZE:
            return self._freeze(strike)
        return self._kill_part(strike)

    def _kill_part(self, strike: Strike) -> bool:
        """Kill what its own worker replaces."""
        name = strike.target
        pid = self._fleet.pool_pid(name) if strike.kind == POOL else self._fleet.living_instance_pid(name)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if strike.kind == POOL and self._is_young(name):
            self._hit_young.add(name)
        strike.mended_ms = now_ms()
        return True

    def _freeze(self, strike: Strike) -> bool:
        """Stop a worker and its pool process for longer than their leases; the instance goes on."""
        name = strike.target
        self._fleet.signal(name, signal.SIGSTOP, group=True)
        if self._holds_write_lock():
            # On SQLite nobody could write until it wakes.
            self._fleet.signal(name, signal.SIGCONT, group=True)
            return False
        self._later(strike, self._frozen_s, lambda: self._thaw(name))
        return True

    def _holds_write_lock(self) -> bool:
        path = self._fleet.data_dir / "ledger.db"
        if not path.exists():
            return False
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
            return False
        return True

    def _later(self, strike: Strike, delay_s: float, mend: Callable[[], bool]) -> None:
        self._repairs.append(_Repair(strike=strike, due_s=time.monotonic() + delay_s, mend=mend))

    def _start(self, name: str) -> bool:
        self._hit_young.discard(name)
        self._started_s[name] = time.monotonic()
        self._fleet.start(name)
        return True

    def _thaw(self, name: str) -> bool:
        self._fleet.signal(name, signal.SIGCONT, group=True)
        return True

    def _restart_ended(self, name: str, give_up_s: float) -> bool:
        """Start a worker again that was asked to stop, once it has; it must do so by itself, and without an error."""
        status = self._fleet.processes[name].poll()
        if status is None and time.monotonic() < give_up_s:
            return False
        if status is None:
            self.problems.append(f"{name} did not end within {EXIT_S} s of SIGTERM: ...{self._fleet.log(name)[-1500:]}")
            self._fleet.kill(name)
        elif status != 0:
            self.problems.append(f"{name} ended with {status} after SIGTERM: ...{self._fleet.log(name)[-1500:]}")
        return self._start(name)
