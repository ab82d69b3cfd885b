"""Which model files an instance is likely to hold: those it used last, as far as its memory goes.

A belief, for ComfyUI does not say. What jobs take is learned apart from it, and corrects it: see `Residency.doubted`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

#: What a model file is taken to need where its size is not known: a checkpoint of the usual kind.
USUAL_BYTES = 6_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model file in the memory of an instance."""

    name: str
    size_bytes: int = USUAL_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """The model files of one instance, the most recently used first."""

    files: tuple[ModelFile, ...] = ()
    #: How much it holds at most; what a prompt needs it holds in any case.
    budget_bytes: int = USUAL_BYTES

    def holds(self, names: Collection[str]) -> bool:
        """Return whether all these files are held; true for none."""
        return set(names) <= self.names

    @property
    def names(self) -> frozenset[str]:
        """The files held."""
        return frozenset(file.name for file in self.files)

    def after(self, names: Iterable[str], sizes: Mapping[str, int] | None = None) -> Residency:
        """Return what is held once a prompt has used these files: what does not fit beside them has gone.

        Parameters:
          sizes: of files in bytes, where they are known.
        """
        sizes = sizes or {}
        used = [ModelFile(name=name, size_bytes=sizes.get(name, USUAL_BYTES)) for name in sorted(set(names))]
        mine = {file.name for file in used}
        left_bytes = self.budget_bytes - sum(file.size_bytes for file in used)
        kept: list[ModelFile] = []
        for file in self.files:
            if file.name in mine:
                continue
            left_bytes -= file.size_bytes
            if left_bytes < 0:
                break
            kept.append(file)
        return Residency(files=(*used, *kept), budget_bytes=self.budget_bytes)

    def at_risk(self, size_bytes: int = USUAL_BYTES) -> frozenset[str]:
        """Return the files that a load of so many bytes would push out."""
        left_bytes = self.budget_bytes - size_bytes
        for index, file in enumerate(self.files):
            left_bytes -= file.size_bytes
            if left_bytes < 0:
                return frozenset(each.name for each in self.files[index:])
        return frozenset()

    def doubted(self, names: Collection[str]) -> Residency:
        """Return what is left of the belief when these files had to be loaded although they were taken to be held.

        Whatever was used no later than they were has gone too.
        """
        for index, file in enumerate(self.files):
            if file.name in names:
                return Residency(files=self.files[:index], budget_bytes=self.budget_bytes)
        return self
