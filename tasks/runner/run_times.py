"""How long prompts took on this instance: what looking ahead goes by, and what the ledger is told about it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Mapping

from comfy.prompts.result import PromptResult
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.durations import gpu_kind, subjects_of
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.scheduling.learned import USUAL_LOAD_S
from core.records.instance import InstanceRecord
from core.records.usage import GpuTime
from core.scheduling.lines import ModelSet
from workflows.graphs.graph import Graph, sources
from workflows.graphs.model_files import models_in

log = logging.getLogger(__name__)

#: Shapes remembered, the least recently used forgotten first.
KEPT = 256
#: Weight of the newest duration in the average.
NEWEST = 0.5
#: The ledger is told of one shape this often at most: an average of many short prompts needs no more.
PAUSE_S = 1.0
#: A prompt loaded its models, although they were taken to be held, if it took longer than usual by such a share of a
#: load, and by such a ratio; loads that are shorter cannot be told from other reasons.
LOADED_SHARE, LOADED_RATIO, LEAST_LOAD_S = 0.6, 1.5, 1.0
#: An instance that is idle so much sooner or later than expected is worth a word to the ledger: others go by that.
NOTICED_S = 0.5


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
    """Tells the ledger how long prompts took, so that waits can be estimated, and loads avoided, in the whole fleet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._told_at_s: OrderedDict[str, float] = OrderedDict()
        #: The models of the prompt that ran before, which the instance holds in any case.
        self._ran_last: ModelSet | None = None

    def tell(self, claim: Claim, instance: InstanceRecord, seconds: float | None) -> None:
        """Tell the ledger how long one prompt kept this instance's GPU busy; None is not told."""
        models = model_set_of(claim.models)
        held_for_sure = models == self._ran_last
        self._ran_last = None if seconds is None else models
        if seconds is None:
            return
        self._refute(claim, instance)
        was_cold = claim.load_s > 0
        # Right behind its own models a long run is a long run: taken for a load, it would never be learned.
        if not held_for_sure and was_held_in_vain(claim, seconds):
            was_cold = True
            self._doubt(claim, instance)
        what = f"{claim.shape or claim.template or ''} {was_cold}"
        is_first = what not in self._told_at_s
        if self._was_told_lately(what):
            return
        gpu = gpu_kind(instance.device, instance.kind)
        try:
            if was_cold:
                self._teach_load(claim, gpu, seconds)
            else:
                self._teach_run(claim, gpu, seconds, is_first=is_first)
        except LedgerUnavailable as exc:
            log.info("the ledger was not told how long job %s took: %s", claim.job_id, exc)

    def _teach_run(self, claim: Claim, gpu: str, seconds: float, *, is_first: bool) -> None:
        """Record how long such jobs run, and with the first of them how much of the run with a load was the load."""
        durations, (runs, load) = self._ledger.durations, _subjects(claim)
        lessons = dict.fromkeys(runs, seconds)
        guessed = durations.guessed([runs[0], load], gpu=gpu) if is_first else {}
        if len(guessed) == 2:
            lessons[load] = max(0.0, sum(guessed.values()) - seconds)
        durations.learn_all(lessons, gpu=gpu)

    def _teach_load(self, claim: Claim, gpu: str, seconds: float) -> None:
        """Record how long the models of such jobs load beside what the jobs run."""
        durations, (runs, load) = self._ledger.durations, _subjects(claim)
        known = durations.known([*runs, load], gpu=gpu)
        usual_s = next((known[what] for what in runs if what in known), None)
        if usual_s is not None:
            durations.learn_all({load: max(0.0, seconds - usual_s)}, gpu=gpu)
            return
        # Which part of it was the load is not known before such jobs have run without one.
        load_s = min(known.get(load, USUAL_LOAD_S), seconds / 2)
        guesses = {**dict.fromkeys(runs, seconds - load_s), load: load_s}
        durations.learn_all(guesses, gpu=gpu, is_guess=True)

    def _refute(self, claim: Claim, instance: InstanceRecord) -> None:
        try:
            self._ledger.lessons.refute(claim.shape, gpu_kind(instance.device, instance.kind))
        except LedgerUnavailable as exc:
            log.info("the ledger was not told that job %s had memory enough: %s", claim.job_id, exc)

    def _doubt(self, claim: Claim, instance: InstanceRecord) -> None:
        log.info("%s had to load models for job %s that it was taken to hold", instance.name, claim.job_id)
        try:
            self._ledger.instances.doubt_models(instance.name, worker=instance.worker, models=claim.models)
        except LedgerUnavailable as exc:
            log.info("the ledger was not told what %s holds: %s", instance.name, exc)

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


def _subjects(claim: Claim) -> tuple[list[str], str]:
    """Return under what a claim's run is remembered, the most telling first, and under what the load of its models."""
    models = model_set_of(claim.models)
    return [*subjects_of(claim.shape, claim.template), run_subject(models)], load_subject(models)


def was_held_in_vain(claim: Claim, seconds: float) -> bool:
    """Return whether a run took about as long as if its models had been loaded, which were taken to be held."""
    if claim.load_s > 0 or claim.cold_load_s < LEAST_LOAD_S:
        return False
    return seconds > claim.run_s + LOADED_SHARE * claim.cold_load_s and seconds > LOADED_RATIO * claim.run_s


def was_misjudged(claim: Claim, took_s: float) -> bool:
    """Return whether a run is over noticeably sooner, or later, than its claim made others believe."""
    return abs(claim.load_s + claim.run_s - took_s) > NOTICED_S


def gpu_seconds(result: PromptResult, graph: Graph) -> float | None:
    """Return how long ComfyUI worked on a prompt, by its own clock.

    None when it did not say, or when nothing but last nodes had to run, as when a job is submitted a second time: what
    the cache saved would be taken for speed.
    """
    took_ms = worked_ms(result)
    if took_ms is None:
        return None
    cached = set(result.cached_nodes)
    if cached and not any(source not in cached for node_id in graph for source in sources(graph, node_id)):
        return None
    return took_ms / 1000


def worked_ms(result: PromptResult) -> int | None:
    """Return how long ComfyUI worked on a prompt, by its own clock; None: it did not say."""
    if result.started_at_ms is None or result.finished_at_ms is None:
        return None
    return max(0, result.finished_at_ms - result.started_at_ms)


def gpu_time_of(total_ms: int, graph: Graph, node_seconds: Mapping[str, float]) -> GpuTime:
    """Tell loads from all else: what nodes took that name model files, which is next to nothing where they are held.

    Parameters:
      node_seconds: by the ids of nodes that have run to their end.
    """
    loaded_s = sum(took_s for node_id, took_s in node_seconds.items() if _names_models(graph, node_id))
    load_ms = min(round(loaded_s * 1000), total_ms)
    return GpuTime(load_ms=load_ms, run_ms=total_ms - load_ms)


def _names_models(graph: Graph, node_id: str) -> bool:
    return node_id in graph and any(models_in(graph[node_id].get("inputs", {})))
