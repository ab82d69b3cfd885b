"""How many GPUs hold each model set, and until they are free: kept up to date, not counted anew for each decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from core.scheduling.lines import Holders, ModelSet


class Holding:
    """The holders of each model set, while GPUs take jobs and become free."""

    def __init__(self) -> None:
        #: GPUs, how many of them are busy, and the sum of when those will be free.
        self._sums: dict[ModelSet, tuple[int, int, float]] = {}
        self._holders: dict[ModelSet, Holders] = {}
        self._out_of_date: set[ModelSet] = set()
        self._now_s = 0.0

    def at(self, now_s: float) -> Mapping[ModelSet, Holders]:
        """Return the holders as of a moment; what was returned before changes with it."""
        if now_s != self._now_s:
            self._now_s = now_s
            self._out_of_date.update(self._sums)
        for models in self._out_of_date:
            gpus, busy, free_at_s = self._sums.get(models, (0, 0, 0.0))
            if gpus:
                self._holders[models] = Holders(gpus=gpus, free_s=free_at_s - busy * now_s if busy else 0.0)
            else:
                self._holders.pop(models, None)
        self._out_of_date.clear()
        return self._holders

    def add(self, held: Iterable[ModelSet], free_at_s: float | None) -> None:
        """Count a GPU that holds these; one that is idle has no time at which it will be free."""
        self._change(held, 1, 0 if free_at_s is None else 1, free_at_s or 0.0)

    def remove(self, held: Iterable[ModelSet], free_at_s: float | None) -> None:
        """Count a GPU no more that was counted with these arguments."""
        self._change(held, -1, 0 if free_at_s is None else -1, -(free_at_s or 0.0))

    def free(self, held: Iterable[ModelSet], free_at_s: float) -> None:
        """Count a GPU as idle that was busy until then."""
        self._change(held, 0, -1, -free_at_s)

    def _change(self, held: Iterable[ModelSet], gpus: int, busy: int, free_at_s: float) -> None:
        for models in held:
            old = self._sums.get(models, (0, 0, 0.0))
            self._out_of_date.add(models)
            new = old[0] + gpus, old[1] + busy, old[2] + free_at_s
            if new[0]:
                self._sums[models] = new
            else:
                del self._sums[models]
