"""How long prompts took on this instance: what looking ahead goes by, and what the ledger is told about it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict

from comfy.prompts.result import PromptResult
from core.errors import LedgerUnavailable
from core.ledger.claims import Claim
from core.ledger.durations import Durations as LearnedDurations
from core.ledger.durations import gpu_kind
from core.ledger.instances import InstanceRecord
from workflows.graphs.graph import Graph, sources

log = logging.getLogger(__name__)

#: Shapes remembered, the least recently used forgotten first.
KEPT = 256
#: Weight of the newest duration in the average.
NEWEST = 0.5
#: The ledger is told of one shape this often at most: an average of many short prompts needs no more.
PAUSE_S = 1.0


class Durations:
    """Durations by shape. Not more than an estimate, so it needs no lock: a lost update costs nothing."""

    def __init__(self) -> None:
        self._average_s: OrderedDict[str, float] = OrderedDict()

    def learn(self, shape: str, seconds: float) -> None:
        """Learn how long one prompt of this shape took, from the moment ComfyUI took it up."""
        known = self._average_s.pop(shape, seconds)
        self._average_s[shape] = known + NEWEST * (seconds - known)
        while len(self._average_s) > KEPT:
            self._average_s.popitem(last=False)

    def expect(self, shape: str) -> float | None:
        """Return the seconds a prompt of this shape will take, or None when none was seen yet."""
        return self._average_s.get(shape)


class Teacher:
    """Tells the ledger how long prompts took, so that waits can be estimated anywhere in the fleet."""

    def __init__(self, durations: LearnedDurations) -> None:
        self._durations = durations
        self._told_at_s: OrderedDict[str, float] = OrderedDict()

    def tell(self, claim: Claim, instance: InstanceRecord, seconds: float | None) -> None:
        """Tell the ledger how long one prompt kept this instance's GPU busy; None is not told."""
        if seconds is None or self._was_told_lately(claim.shape or claim.template or ""):
            return
        gpu = gpu_kind(instance.device, instance.kind)
        try:
            self._durations.learn(shape=claim.shape, template=claim.template, gpu=gpu, seconds=seconds)
        except LedgerUnavailable as exc:
            log.info("the ledger was not told how long job %s took: %s", claim.job_id, exc)

    def _was_told_lately(self, what: str) -> bool:
        now_s = time.monotonic()
        told_at_s = self._told_at_s.get(what)
        if told_at_s is not None and now_s - told_at_s < PAUSE_S:
            return True
        self._told_at_s[what] = now_s
        self._told_at_s.move_to_end(what)
        while len(self._told_at_s) > KEPT:
            self._told_at_s.popitem(last=False)
        return False


def gpu_seconds(result: PromptResult, graph: Graph) -> float | None:
    """Return how long ComfyUI worked on a prompt, by its own clock.

    None when it did not say, or when nothing but last nodes had to run, as when a job is submitted a second time: what
    the cache saved would be taken for speed.
    """
    if result.started_at_ms is None or result.finished_at_ms is None:
        return None
    cached = set(result.cached_nodes)
    if cached and not any(source not in cached for node_id in graph for source in sources(graph, node_id)):
        return None
    return max(0, result.finished_at_ms - result.started_at_ms) / 1000
