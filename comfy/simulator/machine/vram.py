"""Imitates what model weights cost: time to read, time to move, room in RAM and VRAM."""

from __future__ import annotations

import threading
import time

from comfy.simulator.machine.load_costs import LoadCosts, LoadCount
from comfy.simulator.machine.model_store import HeldFile, ModelStore, Room, Weights


class OutOfVideoMemory(RuntimeError):
    """The simulated GPU has no room; reported under the name PyTorch gives it."""


class SimulatedGpu:
    """One simulated GPU: a clock that can run fast, and the memory it loads models into. Safe from any thread."""

    def __init__(self, *, room: Room, costs: LoadCosts, speed: float) -> None:
        self.room = room
        self._costs = costs
        self._speed = speed
        self._lock = threading.Lock()
        self._store = ModelStore(room)
        self._count = LoadCount()

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        if seconds > 0 and self._speed > 0:
            time.sleep(seconds / self._speed)

    def scaled(self, seconds: float) -> float:
        """Wall-clock seconds for a simulated duration; at speed 0 nothing takes any time."""
        return seconds / self._speed if self._speed > 0 else 0.0

    def read(self, weights: Weights) -> Weights:
        """Spend the time of reading a file into RAM."""
        with self._lock:
            move = self._store.read(weights)
            seconds = self._costs.seconds(move)
            self._count.add(move, seconds)
        self.sleep(seconds)
        return weights

    def use(self, *wanted: Weights, passes: int = 1) -> float:
        """Spend the time of bringing weights into VRAM, where those unused for longest make room.

        Weights that do not fit are no error: ComfyUI leaves the rest in RAM and moves it in each pass.
        Returns: the simulated seconds that this costs each pass, which the caller spends; of `passes`, for the count.
        """
        spent_s = stream_s = 0.0
        with self._lock:
            for move in self._store.use(wanted):
                seconds = self._costs.seconds(move)
                if move.leg == "stream":
                    stream_s += seconds
                    self._count.add(move, seconds, passes)
                else:
                    spent_s += seconds
                    self._count.add(move, seconds)
        self.sleep(spent_s)
        return stream_s

    def used_bytes(self) -> int:
        """VRAM taken by weights now."""
        with self._lock:
            return self._store.vram_used_bytes()

    def ram_available_bytes(self) -> int:
        """RAM that is free, or would be if it were asked for."""
        with self._lock:
            return self._store.ram_available_bytes()

    def resident_names(self) -> list[str]:
        """File names of the weights that are wholly in VRAM, the longest unused first."""
        with self._lock:
            return self._store.resident_names()

    def files(self) -> list[HeldFile]:
        """The files in RAM or VRAM."""
        with self._lock:
            return self._store.listing()

    def loads(self) -> dict[str, dict[str, float]]:
        """What was loaded from `disk`, from the file cache (`ram`), into `vram`, and in each pass anew (`stream`)."""
        with self._lock:
            return self._count.summary()

    def evictions(self) -> dict[str, int]:
        """How often weights left `vram` or `ram` for others."""
        with self._lock:
            return dict(self._store.evicted)

    def forget_counts(self) -> None:
        """Count loads and evictions from nothing."""
        with self._lock:
            self._count.clear()
            self._store.evicted = {"vram": 0, "ram": 0}

    def unload_all(self) -> None:
        """Move everything out of VRAM."""
        with self._lock:
            self._store.unload_all()
