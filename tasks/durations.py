"""How long prompts of the same shape took on this instance lately: the only ground for looking ahead."""

from __future__ import annotations

from collections import OrderedDict

#: Shapes remembered, the least recently used forgotten first.
KEPT = 256
#: Weight of the newest duration in the average.
NEWEST = 0.5


class Durations:
    """Durations by shape. Not more than an estimate, so it needs no lock: a lost update costs nothing."""

    def __init__(self) -> None:
        self._average_s: OrderedDict[str, float] = OrderedDict()

    def learn(self, shape: str, seconds: float) -> None:
        """One prompt of this shape took so long, from the moment ComfyUI took it up."""
        known = self._average_s.pop(shape, seconds)
        self._average_s[shape] = known + NEWEST * (seconds - known)
        while len(self._average_s) > KEPT:
            self._average_s.popitem(last=False)

    def expect(self, shape: str) -> float | None:
        """Seconds a prompt of this shape will take, or None when none was seen yet."""
        return self._average_s.get(shape)
