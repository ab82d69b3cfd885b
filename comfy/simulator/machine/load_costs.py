"""Says how long weights are on their way, and counts what was loaded."""

from __future__ import annotations

import dataclasses

from comfy.simulator.machine.model_store import Leg, Move

#: What reading a file takes, as a share of reading a checkpoint. Text encoders and VAEs are smaller.
_READ_SHARE = {"text_encoders": 0.25, "vae": 0.05, "loras": 0.05, "upscale_models": 0.1, "controlnet": 0.2}
#: Moving weights within memory is much faster than reading them from disk.
_MOVE_SHARE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadCosts:
    """Two speeds in bytes per second, 0 for no time at all; or one duration for whatever size."""

    disk_bytes_s: float
    #: Between RAM and VRAM, and out of the system's file cache.
    bus_bytes_s: float
    #: Seconds to read a checkpoint, in place of the speeds.
    checkpoint_s: float | None = None

    def seconds(self, move: Move) -> float:
        """Simulated seconds of one move."""
        if self.checkpoint_s is not None:
            whole_s = self.checkpoint_s * _READ_SHARE.get(move.weights.folder, 1.0)
            share = move.size_bytes / max(1, move.weights.size_bytes)
            return whole_s * share * (1.0 if move.leg == "disk" else _MOVE_SHARE)
        speed = self.disk_bytes_s if move.leg == "disk" else self.bus_bytes_s
        return move.size_bytes / speed if speed else 0.0


@dataclasses.dataclass(kw_only=True)
class Loaded:
    """What went one way so far."""

    count: int = 0
    size_bytes: int = 0
    #: Simulated, so the same at any speed.
    seconds: float = 0.0


class LoadCount:
    """What was loaded since the start, or since it was set to nothing."""

    def __init__(self) -> None:
        self._legs: dict[Leg, Loaded] = {}
        self.clear()

    def clear(self) -> None:
        self._legs = {"disk": Loaded(), "ram": Loaded(), "vram": Loaded(), "stream": Loaded()}

    def add(self, move: Move, seconds: float, times: int = 1) -> None:
        """Count a move that happens `times` times and takes so many seconds each time."""
        loaded = self._legs[move.leg]
        loaded.count += times
        loaded.size_bytes += move.size_bytes * times
        loaded.seconds += seconds * times

    def summary(self) -> dict[str, dict[str, float]]:
        """By way: `{"count", "size_bytes", "seconds"}`."""
        return {leg: dataclasses.asdict(loaded) for leg, loaded in self._legs.items()}
