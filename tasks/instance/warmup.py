"""The warm-up of an instance: after each of its starts, before it takes jobs."""

from __future__ import annotations

import contextlib
import logging

from comfy.process.instance import Instance
from comfy.process.supervisor import InstanceUnfit
from comfy.prompts.warm_up import load_workflow, warm_up
from core.errors import ComfyUnavailable
from core.settings import Settings
from workflows.graphs.model_files import models_of

log = logging.getLogger(__name__)


class WarmUp:
    """Runs the operator's workflow once for each start of one instance.

    Raises: ConfigurationError - COMFYLINE_WARMUP_WORKFLOW cannot be read.
    """

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._graph = None if settings.warmup_workflow is None else load_workflow(settings.warmup_workflow)
        self._timeout_s = settings.warmup_timeout_s
        self._instance = instance
        #: The process that was warmed up, and how long that took.
        self._done: tuple[int | None, float] | None = None
        self._is_running = False
        #: Model files that it has loaded, until the ledger knows.
        self._loaded: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The model files that it loads, as graphs call them."""
        return () if self._graph is None else tuple(models_of(self._graph))

    @property
    def loaded(self) -> tuple[str, ...]:
        """The model files that the last run loaded; empty once `is_recorded` was called, for jobs then load others."""
        return self._loaded

    def is_recorded(self) -> None:
        """Note that the ledger knows what the last run loaded."""
        self._loaded = ()

    def run(self, base_url: str) -> float | None:
        """Warm the instance up, if that was not done yet; returns the seconds it took, None without a workflow.

        Raises:
          InstanceUnfit: it failed, so this instance must not take jobs.
        """
        if self._graph is None:
            return None
        if self._done is None or self._done[0] != self._instance.pid:
            self._is_running = True
            try:
                seconds = warm_up(base_url, self._graph, timeout_s=self._timeout_s)
            except ComfyUnavailable as exc:
                raise InstanceUnfit(f"{self._instance.spec.name}: {exc.message}") from exc
            finally:
                self._is_running = False
            log.info("%s: warmed up in %.1f s", self._instance.spec.name, seconds)
            self._done = (self._instance.pid, seconds)
            self._loaded = self.files
        return self._done[1]

    def call_off(self) -> None:
        """End a warm-up that runs; it ends only with its process."""
        if self._is_running:
            with contextlib.suppress(ComfyUnavailable):
                self._instance.stop()
