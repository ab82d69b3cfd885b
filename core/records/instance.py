"""An instance and its worker, as the ledger tells of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeldModel:
    """A model file that an instance is likely to hold."""

    name: str
    #: None where the instance does not tell.
    size_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class InstanceRecord:
    """One instance and its worker."""

    #: gpu0@host
    name: str
    host: str
    #: Celery node name of its worker, for remote control.
    worker: str
    #: `simulator`, `comfyui` or `attached`.
    kind: str
    gpu: str | None
    #: One of the words in `core.ledger.instances`, or `lost` when its worker fell silent.
    state: str
    reason: str | None
    url: str | None
    output_dir: str | None
    version: str | None
    device: str | None
    #: How long its warm-up took after its last start; None without one.
    warmup_s: float | None
    quarantined_until_ms: int | None
    restarts: int
    started_at_ms: int
    #: When it answered first after its last start.
    up_since_ms: int | None
    heartbeat_at_ms: int
    #: What jobs may require.
    pool: str | None = None
    vram_bytes: int | None = None
    #: The model files that it holds, the most recently used first.
    held: tuple[HeldModel, ...] = ()
    #: Loads that jobs waited for today (UTC), and how long they were expected to take.
    loads: int = 0
    loading_s: float = 0.0
    #: The job it runs now.
    job_id: str | None = None

    @property
    def gpu_name(self) -> str:
        """Its name within its host, for instance `gpu0`."""
        return self.name.partition("@")[0]

    @property
    def is_simulated(self) -> bool:
        """Whether its pictures are made up."""
        return self.kind == "simulator" or "SIMULATED" in (self.device or "")
