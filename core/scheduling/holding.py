"""How many GPUs hold each model set, and until they are free: kept up to date, not counted anew for each decision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from core.scheduling.lines import Holders, ModelSet


class Holding(Mapping[ModelSet, Holders]):
    """The holders of each model set at one moment, made where they are asked for."""

    def __init__(self) -> None:
        #: GPUs, how many of them are busy, and the sum of when those will be free.
        self._sums: dict[ModelSet, tuple[int, int, float]] = {}
        self._made: dict[ModelSet, Holders] = {}
        self._now_s = 0.0

    def at(self, now_s: float) -> Holding:
        """Return itself, as of another moment."""
        if now_s != self._now_s:
            self._now_s = now_s
            self._made.clear()
        return self

    def add(self, held: Iterable[ModelSet], free_at_s: float | None) -> None:
        """Count a GPU that holds these; one that is idle has no time at which it will be free."""
        self._change(held, 1, 0 if free_at_s is None else 1, free_at_s or 0.0)

    def remove(self, held: Iterable[ModelSet], free_at_s: float | None) -> None:
        """Count a GPU no more, as it was counted."""
        self._change(held, -1, 0 if free_at_s is None else -1, -(free_at_s or 0.0))

    def free(self, held: Iterable[ModelSet], free_at_s: float) -> None:
        """Count a GPU as idle that was busy until then."""
        self._change(held, 0, -1, -free_at_s)

    def _change(self, held: Iterable[ModelSet], gpus: int, busy: int, free_at_s: float) -> None:
        for models in held:
            old = self._sums.get(models, (0, 0, 0.0))
            self._made.pop(models, None)
            new = old[0] + gpus, old[1] + busy, old[2] + free_at_s
            if new[0]:
                self._sums[models] = new
            else:
                del self._sums[models]

    def __getitem__(self, models: ModelSet) -> Holders:
        made = self._made.get(models)
        if made is None:
            gpus, busy, free_at_s = self._sums[models]
            made = Holders(gpus=gpus, free_s=free_at_s - busy * self._now_s if busy else 0.0)
            self._made[models] = made
        return made

    def __contains__(self, models: object) -> bool:
        return models in self._sums

    def __iter__(self) -> Iterator[ModelSet]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)
