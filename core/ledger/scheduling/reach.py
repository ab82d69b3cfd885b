"""What follows from what lines are, and from nothing else: found out once, for a claim is asked for it every time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from core.scheduling.lines import NO_MODELS, ModelSet

#: So many answers of each kind are kept; a fleet of a thousand GPUs asks fewer questions.
KEPT = 4096

Files: TypeAlias = frozenset[str]


class Sort(NamedTuple):
    """What makes instances alike for a line."""

    catalogue: str | None
    pool: str | None
    vram_bytes: int | None


class Kind(Protocol):
    """What a line is, see `core.ledger.scheduling.lines.LineKind`."""

    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def models(self) -> ModelSet: ...
    @property
    def work(self) -> ModelSet: ...
    def runs_on(self, *, catalogue: str | None, pool: str | None, vram_bytes: int | None) -> bool: ...


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
        self._able: dict[Sort, frozenset[int]] = {}
        self._works: dict[tuple[ModelSet, Sort], tuple[ModelSet, ...]] = {}
        self._held: dict[tuple[Files, Files], tuple[frozenset[ModelSet], frozenset[ModelSet]]] = {}

    def files_of(self, line_id: int) -> tuple[str, ...]:
        """Return the model files that the jobs of a line load."""
        return self._kinds[line_id].files

    def able(self, sort: Sort) -> frozenset[int]:
        """Return the lines that instances of a sort can run."""
        found = self._able.get(sort)
        if found is None:
            found = frozenset(line_id for line_id, kind in self._kinds.items() if kind.runs_on(**sort._asdict()))
            _keep(self._able, sort, found)
        return found

    def works(self, models: ModelSet, sort: Sort) -> Sequence[ModelSet]:
        """Return the names of all work that instances of a sort are of use to while they hold these models."""
        found = self._works.get((models, sort))
        if found is None:
            kinds = self._by_models.get(models, {})
            apart = [work for work, kind in kinds.items() if work != models and kind.runs_on(**sort._asdict())]
            found = (models, *apart)
            _keep(self._works, (models, sort), found)
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
