"""The policy run forward: which GPU takes a job of which line, one after the other.

Every expectation comes true here: jobs, loads and fetches of model files take as long as they are expected to, no GPU
comes or goes, no job comes, and a GPU holds the model sets it used last, as many as it has room for. A job whose
deadline passes leaves its line. A tenant has used what its jobs take from the moment they are taken. From when its
model files have been fetched to a host, the GPUs there can run a line. A line whose gates are full is left out until
one of the jobs that went through them has ended.

It asks the policy itself, of as few lines as decide the matter, and asks an idle GPU again only if its answer can have
changed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

from core.scheduling.gates import Slots
from core.scheduling.holding import Holding
from core.scheduling.levels import Level, Levels, LineAhead
from core.scheduling.lines import Decision, Fleet, Gpu, ModelSet, Why
from core.scheduling.picture import FleetGpu, Picture
from core.scheduling.policy import decide_among, overtaken_from_s
from core.scheduling.shares import by_turn, decayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A job that a GPU takes, in the forecast."""

    #: Counted over all lines: 1 is the next job to be taken.
    rank: int
    line_id: int
    #: Of the job in its line, as it stands now: the head is 0.
    index: int
    gpu: str
    why: Why
    #: From now until it is taken, and until its own work begins: models are loaded between.
    taken_in_s: float
    starts_in_s: float
    #: When the head of its line had come.
    since_s: float
    #: Whether the GPU lacks its models then.
    loads: bool
    #: The tenants whose turn it was; None: everybody's.
    in_turn: Collection[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a run forward saw."""

    starts: tuple[Start, ...]
    #: Jobs whose deadline passes first: line, index in it, and in how many seconds.
    expiries: tuple[tuple[int, int, float], ...]
    #: How far it looked.
    horizon_s: float
    #: Whether it looked until nothing was left that a GPU takes.
    to_the_end: bool
    #: How long a job occupied its GPU, on average, with its load.
    mean_s: float


def run_ahead(picture: Picture, *, steps: int, looks: int) -> Ahead:
    """Return which jobs GPUs take next.

    Parameters:
      steps: how many jobs at most.
      looks: how many lines may be looked at, over all decisions: a bound on the time this takes.
    """
    return _Run(picture, steps, looks).run()


class _GpuAhead:
    """A GPU in the forecast."""

    def __init__(self, place: int, of: FleetGpu, now_s: float) -> None:
        gpu = of.gpu
        self.place = place
        self.name = of.name
        self.can_run = of.can_run
        self.busy = of.busy
        self.free_at_s = now_s + max(0.0, gpu.free_s) if of.busy else now_s
        self.gpu = gpu if not gpu.free_s else replace(gpu, free_s=0.0)
        self.alike: int = -1
        #: The gates that its jobs went through.
        self.slots = of.slots
        named = [models for models in of.recent if models in gpu.holds]
        left = sorted(gpu.holds.difference(named), key=lambda models: (models in gpu.at_risk, models))
        self._recent = [*named, *left]
        self._room = max(1, of.room if of.room is not None else len(gpu.holds) + (not gpu.at_risk))

    def use(self, models: ModelSet) -> None:
        """Hold a model set, and lose what does not fit beside it."""
        if not models:
            return
        before = self.gpu
        if models in before.holds:
            self._recent.remove(models)
        else:
            self._recent = [each for each in self._recent if each not in before.at_risk]
        self._recent.insert(0, models)
        del self._recent[self._room :]
        self.gpu = Gpu(
            holds=frozenset(self._recent),
            at_risk=frozenset(self._recent[self._room - 1 :]),
            load_s=before.load_s,
            usual_load_s=before.usual_load_s,
        )


class _Run:
    def __init__(self, picture: Picture, steps: int, looks: int) -> None:
        self._picture = picture
        self._now_s = picture.now_s
        self._steps = steps
        self._looks = looks
        self._lines = [LineAhead(each) for each in picture.lines if each.line.waiting > 0]
        self._slots = Slots(
            {each.line.id: each.gates for each in picture.lines if each.gates and each.line.waiting > 0}
        )
        for line in self._lines:
            line.is_open = self._slots.is_open(line.id)
        self._levels = Levels(self._lines, by_tenant=picture.used_s is not None)
        self._gpus = [_GpuAhead(place, each, picture.now_s) for place, each in enumerate(picture.gpus)]
        self._kinds: dict[tuple[object, ...], int] = {}
        self._holding = Holding()
        for each in self._gpus:
            self._know(each)
            self._holding.add(self._counted(each), each.free_at_s if each.busy else None)
        self._busy = sum(each.busy for each in self._gpus)
        self._used = {tenant: (used_s, picture.now_s) for tenant, used_s in (picture.used_s or {}).items()}
        self._freed = [(each.free_at_s, each.place) for each in self._gpus if each.busy]
        heapq.heapify(self._freed)
        self._deadlines = [each for line in self._lines for each in line.deadlines]
        heapq.heapify(self._deadlines)
        self._by_id = {line.id: line for line in self._lines}
        #: When GPUs can run lines for which files are fetched now.
        self._arrivals = [
            (picture.now_s + each.fetching.left_s, each.line.id, each.fetching.gpus)
            for each in picture.lines
            if each.fetching is not None and each.fetching.left_s is not None and each.line.id in self._by_id
        ]
        self._arrivals.sort(key=lambda each: each[:2], reverse=True)
        #: What GPUs of one kind can run, with one line more: many share it.
        self._wider: dict[tuple[frozenset[int], int], frozenset[int]] = {}
        #: Kinds of idle GPUs that took nothing, when so many or fewer were busy. As long as no fewer are, and nobody
        #: lost models that are waited for, they would not take anything before some line is passed over for too long.
        self._refused: dict[int, float] = {}
        self._refused_busy = -1
        #: From when on the GPU that took nothing at last would, whatever else happens.
        self._overtaken_at_s = math.inf
        self._waiting = sum(line.waiting for line in self._lines)
        self._starts: list[Start] = []
        self._expiries: list[tuple[int, int, float]] = []
        self._occupied_s = 0.0

    def run(self) -> Ahead:
        self._ask_idle()
        while (self._freed or self._arrivals) and self._waiting and not self._is_over():
            if self._arrivals and (not self._freed or self._arrivals[-1][0] <= self._freed[0][0]):
                self._arrive()
            else:
                self._free()
            self._ask_idle()
        count = len(self._starts)
        return Ahead(
            starts=tuple(self._starts),
            expiries=tuple(self._expiries),
            horizon_s=self._now_s - self._picture.now_s,
            to_the_end=not self._is_over(),
            mean_s=self._occupied_s / count if count else 0.0,
        )

    def _free(self) -> None:
        """Go on to when the next GPU is free, and ask it."""
        self._now_s, place = heapq.heappop(self._freed)
        self._expire()
        gpu = self._gpus[place]
        gpu.busy = False
        self._busy -= 1
        self._holding.free(self._counted(gpu), gpu.free_at_s)
        slots, gpu.slots = gpu.slots, ()
        if opened := self._slots.give_back(slots):
            self._set_open(opened, is_open=True)
            self._ask_all_again()
        self._ask(gpu)

    def _arrive(self) -> None:
        """Go on to when the files of a line are there."""
        self._now_s, line_id, names = self._arrivals.pop()
        self._expire()
        for gpu in self._gpus:
            able = gpu.can_run
            if gpu.name not in names or able is None or line_id in able:
                continue
            free_at_s = gpu.free_at_s if gpu.busy else None
            self._holding.remove(self._counted(gpu), free_at_s)
            gpu.can_run = self._wider.setdefault((able, line_id), able | {line_id})
            self._know(gpu)
            self._holding.add(self._counted(gpu), free_at_s)
        self._ask_all_again()

    def _is_over(self) -> bool:
        return bool(self._waiting) and (len(self._starts) >= self._steps or self._looks <= 0)

    def _ask_idle(self) -> None:
        """Ask the idle GPUs, again and again, until none takes anything."""
        moved = self._busy < len(self._gpus)
        while moved and self._waiting and not self._is_over():
            if self._busy < self._refused_busy or self._deadlines:
                self._ask_all_again()
            moved = False
            for gpu in self._gpus:
                if not gpu.busy and self._refused.get(gpu.alike, -math.inf) < self._now_s and not self._is_over():
                    moved = self._ask(gpu) or moved

    def _ask(self, gpu: _GpuAhead) -> bool:
        decided = self._decision(gpu)
        if decided is None:
            self._refused[gpu.alike] = self._overtaken_at_s
            self._refused_busy = max(self._refused_busy, self._busy)
            return False
        self._take(gpu, *decided)
        return True

    def _ask_all_again(self) -> None:
        self._refused.clear()
        self._refused_busy = -1

    def _decision(self, gpu: _GpuAhead) -> tuple[Decision, Collection[str] | None] | None:
        fleet = Fleet(holders=self._holding.at(self._now_s), gpus=len(self._gpus), busy=self._busy)
        levels, looks = self._levels.of(gpu.can_run)
        self._looks -= looks
        self._overtaken_at_s = math.inf
        for level in levels:
            for number, tenants in enumerate(self._by_turn(gpu, level)):
                # Whether only some of those that wait have their turn.
                is_turn = number == 0 and len(tenants) < len(level.tenants)
                lines = level.deciding(tenants)
                self._looks -= len(lines)
                count_work = partial(level.work_s_of, tenants if is_turn else level.own_s)
                decision = decide_among(lines, gpu.gpu, fleet, count_work, now_s=self._now_s)
                if decision is not None:
                    return decision, tenants if is_turn else None
                overtaken_at_s = [at_s for line in lines if (at_s := overtaken_from_s(line, gpu.gpu)) >= self._now_s]
                self._overtaken_at_s = min(self._overtaken_at_s, min(overtaken_at_s, default=math.inf))
        return None

    def _by_turn(self, gpu: _GpuAhead, level: Level) -> Iterator[Collection[str]]:
        used_s = self._used_now() if len(level.tenants) > 1 else None
        return by_turn(level.tenants, used_s, lambda: level.quantum_s(gpu.gpu))

    def _take(self, gpu: _GpuAhead, decision: Decision, turn: Collection[str] | None) -> None:
        line = self._by_id[decision.line.id]
        since_s = line.line.since_s
        is_shared = self._levels.is_shared(decision.line.models)
        index = line.take(nearest_deadline=decision.takes_nearest_deadline)
        self._levels.changed(line, jobs=1)
        self._waiting -= 1
        gpu.slots = self._slots.keys_of(line.id)
        self._set_open(self._slots.take(line.id), is_open=False)
        took_s = decision.load_s + line.run_s_of(index)
        taken_in_s = self._now_s - self._picture.now_s
        self._starts.append(
            Start(
                rank=len(self._starts) + 1,
                line_id=line.id,
                index=index,
                gpu=gpu.name,
                why=decision.why,
                taken_in_s=taken_in_s,
                starts_in_s=taken_in_s + decision.load_s,
                since_s=since_s,
                loads=not gpu.gpu.holds_models_of(decision.line),
                in_turn=turn,
            )
        )
        self._occupied_s += took_s
        self._charge(decision.line.tenant, took_s)
        before = self._counted(gpu)
        self._holding.remove(before, None)
        gpu.use(decision.line.models)
        gpu.busy = True
        gpu.free_at_s = self._now_s + took_s
        self._busy += 1
        self._know(gpu)
        after = self._counted(gpu)
        self._holding.add(after, gpu.free_at_s)
        heapq.heappush(self._freed, (gpu.free_at_s, gpu.place))
        # Models it holds are held by fewer now, or by one that is busy for longer: worth a load, perhaps. For those of
        # this line alone, less waits by as much.
        others = before.union(after)
        if not is_shared:
            others = others.difference((decision.line.models,))
        if any(self._levels.waits_for(models) for models in others):
            self._ask_all_again()

    def _set_open(self, line_ids: Collection[int], *, is_open: bool) -> None:
        self._looks -= len(line_ids)
        for line_id in sorted(line_ids):
            self._levels.set_open(self._by_id[line_id], is_open=is_open)

    def _charge(self, tenant: str, took_s: float) -> None:
        if self._picture.used_s is None:
            return
        used_s, at_s = self._used.get(tenant, (0.0, self._now_s))
        more_s = took_s / self._picture.weights.get(tenant, 1.0)
        self._used[tenant] = decayed(used_s, self._now_s - at_s) + more_s, self._now_s

    def _used_now(self) -> dict[str, float]:
        now_s = self._now_s
        return {tenant: decayed(used_s, now_s - at_s) for tenant, (used_s, at_s) in self._used.items()}

    def _expire(self) -> None:
        while self._deadlines and self._deadlines[0][0] < self._now_s:
            start_by_s, line_id, index = heapq.heappop(self._deadlines)
            line = self._by_id[line_id]
            if line.drop(index):
                self._expiries.append((line_id, index, max(0.0, start_by_s - self._picture.now_s)))
                self._levels.changed(line, jobs=1)
                self._waiting -= 1

    def _know(self, gpu: _GpuAhead) -> None:
        """Number the GPU's kind: those of one number answer alike."""
        kind = gpu.can_run, gpu.gpu.holds, gpu.gpu.at_risk, id(gpu.gpu.load_s), gpu.gpu.usual_load_s
        gpu.alike = self._kinds.setdefault(kind, len(self._kinds))

    def _counted(self, gpu: _GpuAhead) -> frozenset[ModelSet]:
        """The model sets it holds, but for those of which it can run none of the lines that wait."""
        return self._levels.counted(gpu.can_run, gpu.gpu.holds)
