"""Imitates what model weights cost: time to read, time to move, room in VRAM with eviction."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref

#: What reading a file takes, as a share of reading a checkpoint. Text encoders and VAEs are smaller.
_READ_SHARE = {"text_encoders": 0.25, "vae": 0.05, "loras": 0.05, "upscale_models": 0.1, "controlnet": 0.2}
#: Moving weights from RAM to VRAM is much faster than reading them from disk.
_MOVE_SHARE = 0.1
#: ComfyUI asks for a tenth more room than the weights take.
_HEADROOM = 1.1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The weights read from one file. They live as long as something holds this object: the node cache does."""

    folder: str
    name: str
    size_bytes: int


class OutOfVideoMemory(RuntimeError):
    """The simulated GPU has no room; reported under the name PyTorch gives it."""


class SimulatedGpu:
    """One simulated GPU: a clock that can run fast, and a VRAM budget."""

    def __init__(self, *, vram_bytes: int, load_s: float, speed: float) -> None:
        self.vram_bytes = vram_bytes
        self._load_s = load_s
        self._speed = speed
        self._lock = threading.Lock()
        # Oldest use first. Weak: weights that the cache dropped free their room by themselves.
        self._resident: list[weakref.ref[Weights]] = []

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        if seconds > 0 and self._speed > 0:
            time.sleep(seconds / self._speed)

    def scaled(self, seconds: float) -> float:
        """Wall-clock seconds for a simulated duration; at speed 0 nothing takes any time."""
        return seconds / self._speed if self._speed > 0 else 0.0

    def read(self, weights: Weights) -> Weights:
        """Spend the time of reading a file into RAM."""
        self.sleep(self._load_s * _READ_SHARE.get(weights.folder, 1.0))
        return weights

    def use(self, *wanted: Weights) -> None:
        """Bring weights into VRAM, evicting those unused for longest.

        Weights larger than the whole VRAM are offloaded in part, as ComfyUI does: they evict all else, and run.
        """
        for weights in wanted:
            if self._touch(weights):
                continue
            self._make_room(round(weights.size_bytes * _HEADROOM), keep=wanted)
            self.sleep(self._load_s * _READ_SHARE.get(weights.folder, 1.0) * _MOVE_SHARE)
            with self._lock:
                self._resident.append(weakref.ref(weights))

    def used_bytes(self) -> int:
        """VRAM taken by weights now."""
        with self._lock:
            return min(self.vram_bytes, sum(weights.size_bytes for weights in self._alive()))

    def resident_names(self) -> list[str]:
        """File names of the weights in VRAM, the longest unused first."""
        with self._lock:
            return [weights.name for weights in self._alive()]

    def unload_all(self) -> None:
        """Move everything out of VRAM."""
        with self._lock:
            self._resident.clear()

    def _touch(self, weights: Weights) -> bool:
        with self._lock:
            alive = self._alive()
            if not any(other is weights for other in alive):
                return False
            alive = [other for other in alive if other is not weights] + [weights]
            self._resident = [weakref.ref(other) for other in alive]
            return True

    def _make_room(self, needed_bytes: int, keep: tuple[Weights, ...]) -> None:
        with self._lock:
            alive = self._alive()
            # What this very step uses goes last: it is evicted only when nothing else is left to evict.
            victims = [w for w in alive if w not in keep] + [w for w in alive if w in keep]
            free_bytes = self.vram_bytes - sum(w.size_bytes for w in alive)
            while free_bytes < needed_bytes and victims:
                victim = victims.pop(0)
                free_bytes += victim.size_bytes
                alive.remove(victim)
            self._resident = [weakref.ref(other) for other in alive]

    def _alive(self) -> list[Weights]:
        return [weights for ref in self._resident if (weights := ref()) is not None]
