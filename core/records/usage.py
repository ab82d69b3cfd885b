"""What is counted of a job's work: the time that it had a GPU to itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuTime:
    """How long one attempt had a GPU, in whole milliseconds: sums of them are exact."""

    #: Its models were loaded; and all else.
    load_ms: int = 0
    run_ms: int = 0

    @property
    def total_ms(self) -> int:
        """From the moment its prompt began until the GPU was done with it."""
        return self.load_ms + self.run_ms


#: Of an attempt whose prompt has not begun.
NO_TIME = GpuTime()
