"""What a job requires of the GPU that runs it, and what it may find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from core.texts.stored_json import known_fields

#: What a label of machines may be, as in the settings.
POOL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
#: The largest amount of memory that may be required.
MAX_VRAM_GB = 4096.0


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Conditions that all have to hold; None sets none."""

    #: The label that the operator gave to the GPU's machine (`COMFYLINE_POOL`).
    pool: str | None = None
    #: Its memory in GB (10^9 bytes), at least.
    vram_gb: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the requirements as a job's row keeps them; empty if there are none."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> Requirements:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - it is no map."""
        return cls(**known_fields(cls, value))

    def over(self, others: Requirements | None) -> Requirements:
        """Return these together with those of the others that these say nothing of."""
        return self if others is None else replace(others, **self.to_json())

    def are_met_by(self, *, pool: str | None, vram_bytes: int | None) -> bool:
        """Return whether a GPU has what is required; one of unknown size has any size."""
        if self.pool is not None and self.pool != pool:
            return False
        return self.vram_gb is None or vram_bytes is None or vram_bytes >= self.vram_gb * 1e9

    def __str__(self) -> str:
        words = []
        if self.pool is not None:
            words.append(f"pool {self.pool}")
        if self.vram_gb is not None:
            words.append(f"at least {self.vram_gb:g} GB of GPU memory")
        return " and ".join(words) or "nothing"


@dataclass(frozen=True, kw_only=True)
class KnownGpu:
    """What a job may ask of an instance, healthy now or not."""

    #: Digest of what it offers; None if it never answered.
    catalogue: str | None
    pool: str | None
    #: None if it does not say.
    vram_bytes: int | None
    is_alive: bool
    #: Whether its host fetches model files of the manifest.
    fetches_models: bool = False
