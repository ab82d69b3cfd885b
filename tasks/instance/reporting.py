"""What the ledger hears of an instance from its worker: its name, its state, its nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import STARTING, STOPPED
from core.metrics.reporter import GPU_FACTOR, MetricReporter
from core.records.rollout import Renewal
from core.rollouts.process_watch import ProcessWatch
from core.settings import Settings
from core.storage.marker import StorageMarker
from tasks.instance.admission import Admission, Condition
from tasks.instance.probe import InstanceInfo
from tasks.instance.tenure import Tenure
from tasks.models.fetcher import fetches_models

log = logging.getLogger(__name__)

#: Seconds between tries at a write that the worker cannot start without.
RETRY_S = 1.0


class StateReporter:
    """Keeps one instance's row in the ledger true. All methods but `open` and `close` may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        tenure: Tenure,
        admission: Admission,
        *,
        restarts: Callable[[], int],
        vram_used: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Parameters:
        tenure: this worker's hold on the instance's name.
        admission: what the instance's state is made of.
        restarts: counts the instance's starts so far.
        vram_used: says how many bytes of its GPU's memory are in use, if anybody can tell.
        """
        #: The name was taken back, and what the instance is and offers has to be recorded again.
        self.is_unrecorded = False
        self._settings = settings
        self._tenure = tenure
        self._name, self._worker = tenure.name, tenure.worker
        self._admission = admission
        self._restarts = restarts
        self._vram_used = vram_used
        self._opened: Ledger | None = None
        #: Held while the ledger is told how the instance is, so that what is told last is what is true.
        self._telling = threading.Lock()

    def open(
        self, stopping: threading.Event, follow: Callable[[Renewal | None, Ledger], None] = lambda *_: None
    ) -> None:
        """Connect to the ledger and register the instance, for as long as that takes or until the worker stops.

        Parameters:
          follow: is told again and again what a rollout wants of this worker.
        """
        self._opened = ledger = Ledger(self._settings, pool_size=2)
        self._watch = ProcessWatch(
            self._settings,
            ledger,
            "gpu",
            follow=lambda wanted: follow(wanted, ledger),
            process_id=self._worker,
            lives_elsewhere=True,
        )
        self._watch.start()
        self._storage = StorageMarker(self._settings, self._opened.storage_moves)
        self._metrics = MetricReporter(
            self._opened.metrics,
            role="gpu",
            host=self._settings.host,
            every_s=GPU_FACTOR * self._settings.metrics_report_s,
        )
        self._metrics.start()
        while True:
            try:
                return self._register()
            except LedgerUnavailable as exc:
                log.warning("%s: waiting for the ledger: %s", self._name, exc)
                if stopping.wait(RETRY_S):
                    return None

    def close(self) -> None:
        """Tell the ledger that the worker stopped, and disconnect from it."""
        if self._opened is not None:
            self._watch.close()
            with self._telling:
                self._say(Condition(state=STOPPED, reason="The worker stopped."))
            self._metrics.close()
            self._opened.close()

    @property
    def is_open(self) -> bool:
        """Whether `open` was called."""
        return self._opened is not None

    def storage_problem(self) -> str | None:
        """Return what is wrong with the fleet's storage as this machine sees it, if anything."""
        return self._storage.problem()

    def up(
        self,
        base_url: str,
        info: InstanceInfo,
        *,
        output_dir: Path | None,
        warmup_s: float | None,
        held: Sequence[str] = (),
    ) -> None:
        """Record that the instance answers, what it is and what it offers; it takes jobs from now on.

        Parameters:
          held: model files that it has loaded already.
        """
        with self._telling:
            self._admission.is_up = True
            condition = self._admission.condition
            try:
                self._ledger.instances.up(
                    self._name,
                    worker=self._worker,
                    url=base_url,
                    output_dir=None if output_dir is None else str(output_dir),
                    version=info.version,
                    device=info.device,
                    vram_bytes=info.vram_bytes,
                    memory_bytes=int(self._settings.model_memory_gb * 1e9),
                    pool=self._settings.pool or None,
                    object_info=info.object_info,
                    model_sizes=info.model_sizes,
                    held=held,
                    fetches_models=fetches_models(self._settings),
                    restarts=self._restarts(),
                    warmup_s=warmup_s,
                    state=condition.state,
                    reason=condition.reason,
                )
            except BaseException:
                self._admission.is_up = False
                raise
            self.is_unrecorded = False

    def go_away(self, condition: Condition) -> None:
        """Record that the instance does not answer, and why."""
        with self._telling:
            self._admission.is_up = self.is_unrecorded = False
            self._admission.away = condition
            self._say(condition)

    def tell(self) -> None:
        """Record the present state."""
        with self._telling:
            self._say(self._admission.condition)

    def beat(self, *, trouble: str | None, stopping: threading.Event) -> None:
        """Record the present state as a sign of life, and take the instance's name back if it was lost.

        Parameters:
          trouble: what an operator should know although the instance takes jobs.
        """
        with self._telling:
            condition = self._admission.condition
            if not stopping.is_set() and not self._say(replace(condition, reason=condition.reason or trouble)):
                self._regain()

    def offers(self, object_info: Mapping[str, Any], model_sizes: Mapping[str, int]) -> None:
        """Record a catalogue that has changed."""
        self._ledger.instances.offers(self._name, worker=self._worker, object_info=object_info, model_sizes=model_sizes)

    def has_looked(self) -> None:
        """Record that a look for new files, which a client asked for, is over."""
        self._ledger.instances.has_looked(self._name, worker=self._worker)

    def unstored(self) -> list[str]:
        """Return the jobs whose outputs still have to be stored from this instance."""
        return self._ledger.outputs.unstored(self._name)

    @property
    def _ledger(self) -> Ledger:
        assert self._opened is not None, "not open"
        return self._opened

    def _say(self, condition: Condition) -> bool:
        """Tell the ledger; False when the row is not ours."""
        try:
            return self._ledger.instances.heartbeat(
                self._name,
                worker=self._worker,
                state=condition.state,
                reason=condition.reason,
                is_drained=self._admission.is_drained,
                restarts=self._restarts(),
                quarantined_until_ms=condition.quarantined_until_ms,
                vram_used_bytes=self._vram_used(),
            )
        except LedgerUnavailable as exc:
            log.warning("%s: the ledger was not told that it is %s: %s", self._name, condition.state, exc)
            return True

    def _regain(self) -> None:
        """Take no jobs while another worker has the row, and take the row back once that worker is gone."""
        before = self._admission.taken_by
        try:
            self._register()
        except LedgerUnavailable as exc:
            log.warning("%s: the ledger was not asked who has this name: %s", self._name, exc)
            return
        if self._admission.taken_by:
            if self._admission.taken_by != before:
                log.error("%s This GPU takes no jobs until that worker is gone.", self._admission.taken_by)
            return
        log.warning("%s: the name is ours again.", self._name)
        if self._admission.is_up:
            self.is_unrecorded = True
            self._admission.is_up = False
            self._admission.away = Condition(state=STARTING, reason="Its name was taken, and is being taken back.")

    def _register(self) -> None:
        is_drained = self._tenure.take(self._ledger)
        self._admission.taken_by = self._tenure.problem if is_drained is None else None
        self._admission.is_drained |= bool(is_drained)
