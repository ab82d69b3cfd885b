"""What follows from what lines are, and from nothing else: found out once, for a claim is asked for it every time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from core.scheduling.lines import NO_MODELS, ModelSet

#: So many answers of each kind are kept; a fleet of a thousand GPUs asks fewer questions.
KEPT = 4096
#: No lines.
NONE: Final = frozenset[int]()

Files: TypeAlias = frozenset[str]


class Sort(NamedTuple):
    """What makes instances alike for a line."""

    catalogue: str | None
    pool: str | None
    vram_bytes: int | None
    #: Its kind of GPU, see `core.ledger.durations.gpu_kind`.
    gpu: str = ""


class Outgrown(NamedTuple):
    """A kind of GPU whose memory did not suffice for some jobs."""

    gpu: str
    #: None where it does not tell.
    vram_bytes: int | None = None

    def is_no_smaller_than(self, sort: Sort) -> bool:
        """Return whether what ran out of memory on this kind would on such instances: of this kind, or with less."""
        if sort.gpu == self.gpu:
            return True
        return sort.vram_bytes is not None and self.vram_bytes is not None and sort.vram_bytes < self.vram_bytes


class Kind(Protocol):
    """What a line is, see `core.ledger.scheduling.lines.LineKind`."""

    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def models(self) -> ModelSet: ...
    @property
    def work(self) -> ModelSet: ...
    @property
    def avoids(self) -> tuple[Outgrown, ...]: ...
    def runs_on(self, sort: Sort) -> bool: ...
    def is_kept_off(self, sort: Sort) -> bool: ...


class Reach:
    """Which lines a sort of instance can run, and whose models it holds, among the lines of one moment."""

    def __init__(self, kinds: Mapping[int, Kind]) -> None:
        self._kinds = dict(kinds)
        #: How many lines it knows: what a line is never changes.
        self.size = len(self._kinds)
        #: The models that the work of a line needs, by the name of that work.
        self.models_of: dict[ModelSet, ModelSet] = {}
        self._by_file: dict[str, list[Kind]] = {}
        self._by_models: dict[ModelSet, dict[ModelSet, Kind]] = {}
        for kind in self._kinds.values():
            self.models_of[kind.work] = self.models_of[kind.models] = kind.models
            self._by_models.setdefault(kind.models, {}).setdefault(kind.work, kind)
            for file in kind.files:
                self._by_file.setdefault(file, []).append(kind)
        self.model_sets = frozenset(self.models_of.values())
        #: Lines that are kept off some GPUs; few, and mostly none.
        self._wary = frozenset(line_id for line_id, kind in self._kinds.items() if kind.avoids)
        self._able: dict[Sort, frozenset[int]] = {}
        self._kept_off: dict[Sort, frozenset[int]] = {}
        self._works: dict[tuple[ModelSet, Sort, frozenset[int]], tuple[ModelSet, ...]] = {}
        self._held: dict[tuple[Files, Files], tuple[frozenset[ModelSet], frozenset[ModelSet]]] = {}

    @property
    def is_wary(self) -> bool:
        """Whether any line is kept off some GPUs."""
        return bool(self._wary)

    def files_of(self, line_id: int) -> tuple[str, ...]:
        """Return the model files that the jobs of a line load."""
        return self._kinds[line_id].files

    def able(self, sort: Sort) -> frozenset[int]:
        """Return the lines that instances of a sort can run, those that are kept off them included."""
        found = self._able.get(sort)
        if found is None:
            found = frozenset(line_id for line_id, kind in self._kinds.items() if kind.runs_on(sort))
            _keep(self._able, sort, found)
        return found

    def kept_off(self, sort: Sort) -> frozenset[int]:
        """Return the lines whose jobs would run out of memory on instances of a sort."""
        if not self._wary:
            return self._wary
        found = self._kept_off.get(sort)
        if found is None:
            found = frozenset(line_id for line_id in self._wary if self._kinds[line_id].is_kept_off(sort))
            _keep(self._kept_off, sort, found)
        return found

    def without_choice(self, sorts: Collection[Sort]) -> frozenset[int]:
        """Return the lines that are kept off some GPUs and that none of the others can run.

        Parameters:
          sorts: of the instances that there are.
        """
        return frozenset(
            line_id
            for line_id in self._wary
            if not any(line_id in self.able(sort) and line_id not in self.kept_off(sort) for sort in sorts)
        )

    def works(self, models: ModelSet, sort: Sort, kept_off: frozenset[int] = NONE) -> Sequence[ModelSet]:
        """Return the names of all work that instances of a sort are of use to while they hold these models.

        Parameters:
          kept_off: lines that leave them to others.
        """
        found = self._works.get((models, sort, kept_off))
        if found is None:
            off = {self._kinds[line_id].work for line_id in kept_off}
            kinds = self._by_models.get(models, {})
            apart = [work for work, kind in kinds.items() if work not in off and work != models and kind.runs_on(sort)]
            found = (models, *apart)
            _keep(self._works, (models, sort, kept_off), found)
        return found

    def held(self, files: Files, risky: Files) -> tuple[frozenset[ModelSet], frozenset[ModelSet]]:
        """Return what these files are enough for: the names of the work, and the model sets that a load pushes out.

        Parameters:
          risky: those of the files that a load would push out.
        """
        found = self._held.get((files, risky))
        if found is None:
            kinds = [kind for file in files for kind in self._by_file.get(file, ()) if files.issuperset(kind.files)]
            holds = frozenset(kind.work for kind in kinds) | {NO_MODELS}
            at_risk = frozenset(kind.models for kind in kinds if not risky.isdisjoint(kind.files))
            found = (holds, at_risk)
            _keep(self._held, (files, risky), found)
        return found

    def sets(self, files: Collection[str]) -> frozenset[ModelSet]:
        """Return the model sets of lines that consist of these files, or of some of them."""
        names = frozenset(files)
        kinds = (kind for file in names for kind in self._by_file.get(file, ()))
        return frozenset(kind.models for kind in kinds if names.issuperset(kind.files))


def _keep(answers: dict[Any, Any], question: object, answer: object) -> None:
    if len(answers) >= KEPT:
        answers.clear()
    answers[question] = answer
