"""Holds the faults that were ordered, and hands each to the place that can commit it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One fault that can be ordered."""

    about: str
    #: The options a fault of this kind understands, with their defaults, beside `times`, `after_s` and `skip`.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: The option that `--simulate-fault NAME=VALUE` sets.
    main: str = "times"


#: A day: "for ever" as far as a test or a demonstration can tell.
_FOREVER_S = 86_400.0

KINDS: Mapping[str, Kind] = {
    "worker_dead": Kind(about="the worker thread dies when it takes the next prompt; HTTP stays healthy"),
    "exit": Kind(
        about="the process exits: at the next prompt, or after_s from now, or at a step of the next sampler",
        options={"code": 1, "step": None},
        main="code",
    ),
    "slow_loop": Kind(about="the event loop blocks", options={"seconds": 5.0}, main="seconds"),
    "socket_stall": Kind(
        about="no client gets any more messages, as if one client did not read",
        options={"seconds": _FOREVER_S},
        main="seconds",
    ),
    "socket_drop": Kind(about="all sockets are cut without a close frame when the next message is due"),
    "socket_refused": Kind(about="GET /ws answers 404, as behind a proxy that passes no websocket on"),
    "oom": Kind(about="the next sampler runs out of GPU memory"),
    "hang": Kind(
        about="the next sampler or SimulatedWork hangs, deaf to interrupts",
        options={"seconds": _FOREVER_S},
        main="seconds",
    ),
    "missing_file": Kind(about="the next saved file is reported, and is not there"),
    "late_history": Kind(
        about="history is written long after execution_success",
        options={"seconds": 2.0},
        main="seconds",
    ),
    "history_cleared": Kind(about="somebody clears the history as soon as the next prompt is in it"),
    "null_lost": Kind(about="the end marker of the next prompt is not sent"),
    "reject_413": Kind(about="POST /prompt answers 413"),
    "reject_500": Kind(about="POST /prompt answers 500"),
    "non_json_ui": Kind(about="the next output a node shows cannot be written as JSON"),
}


@dataclasses.dataclass(kw_only=True)
class _Order:
    options: dict[str, Any]
    #: How often it still strikes.
    times: int
    #: How many opportunities it still lets pass.
    skip: int
    #: On the monotonic clock.
    not_before_s: float


class Faults:
    """The faults on order. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: dict[str, _Order] = {}

    def order(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Arm one fault and return its options, defaults filled in; raises ValueError for what is not known.

        Options of every fault: `times` (how often, default 1), `after_s` (not before), `skip` (opportunities let pass).
        """
        kind = KINDS.get(name)
        if kind is None:
            raise ValueError(f"unknown fault {name!r}; known: {', '.join(KINDS)}")
        unknown = set(options) - set(kind.options) - {"times", "after_s", "skip"}
        if unknown:
            raise ValueError(f"fault {name!r} has no option {', '.join(sorted(unknown))}")
        full = {"times": 1, "after_s": 0.0, "skip": 0, **kind.options, **options}
        with self._lock:
            self._orders[name] = _Order(
                options=full,
                times=int(full["times"]),
                skip=int(full["skip"]),
                not_before_s=time.monotonic() + float(full["after_s"]),
            )
        return full

    def order_text(self, text: str) -> tuple[str, dict[str, Any]]:
        """Arm a fault written `NAME` or `NAME=VALUE`."""
        name, _, value = text.partition("=")
        kind = KINDS.get(name)
        given = {kind.main: float(value) if "." in value else int(value)} if kind and value else {}
        return name, self.order(name, given)

    def take(self, name: str) -> dict[str, Any] | None:
        """The options of a fault that is to strike here and now, or None; counts the strike."""
        # Almost every call finds nothing on order, and this is asked for every message: no lock for that.
        if name not in self._orders:
            return None
        with self._lock:
            order = self._orders.get(name)
            if order is None or time.monotonic() < order.not_before_s:
                return None
            if order.skip > 0:
                order.skip -= 1
                return None
            order.times -= 1
            if order.times <= 0:
                del self._orders[name]
            return order.options

    def peek(self, name: str) -> dict[str, Any] | None:
        """The options of a fault on order, without counting a strike."""
        order = self._orders.get(name)
        return None if order is None else order.options

    def listing(self) -> dict[str, dict[str, Any]]:
        """What is on order, with what is left of it."""
        with self._lock:
            return {name: {**o.options, "times": o.times, "skip": o.skip} for name, o in self._orders.items()}

    def clear(self, name: str | None = None) -> None:
        """Forget one order, or all."""
        with self._lock:
            if name is None:
                self._orders.clear()
            else:
                self._orders.pop(name, None)
