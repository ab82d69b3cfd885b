"""Keeps the waiting prompts, the running one, and the history, all in memory."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: `(number, prompt_id, prompt, extra_data, outputs_to_execute)`, exactly as `GET /queue` shows it. A plain tuple on
#: purpose: the heap compares whole tuples, as in ComfyUI, so a second prompt with the same number *and* id raises
#: TypeError when two dicts are compared, although it has been queued by then.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]

#: ComfyUI forgets the oldest entry beyond this many.
_MAX_HISTORY = 10_000


class PromptQueue:
    """The queue of one server. Safe to use from any thread; `on_change` is called after every change of length."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._changed = threading.Condition(threading.RLock())
        self._heap: list[Item] = []
        self._running: dict[int, Item] = {}
        self._next_task = 0
        self._history: dict[str, dict[str, Any]] = {}
        self._flags: dict[str, bool] = {}

    def put(self, item: Item) -> None:
        """Queue a prompt; raises TypeError on the same number and id (and keeps it all the same, see `Item`)."""
        with self._changed:
            heapq.heappush(self._heap, item)
            self._on_change()
            self._changed.notify()

    def get(self, timeout_s: float | None = None) -> tuple[Item, int] | None:
        """Take the next prompt, waiting for one; None after `timeout_s`, or when a flag was set meanwhile."""
        with self._changed:
            if not self._heap and not self._flags:
                self._changed.wait(timeout_s)
            if not self._heap:
                return None
            item = heapq.heappop(self._heap)
            task = self._next_task
            self._next_task += 1
            self._running[task] = item
            self._on_change()
            return item, task

    def finish(self, task: int, entry: Mapping[str, Any]) -> None:
        """Write a prompt's history (`{"outputs", "status", "meta"}`) and end its run."""
        with self._changed:
            item = self._running.pop(task)
            if len(self._history) > _MAX_HISTORY:
                del self._history[next(iter(self._history))]
            self._history[item[1]] = {"prompt": item, **entry}
            self._on_change()

    def current(self) -> tuple[list[Item], list[Item]]:
        """The running and the waiting prompts, the latter in heap order, not in run order."""
        with self._changed:
            return list(self._running.values()), list(self._heap)

    def remaining(self) -> int:
        """Waiting and running prompts together."""
        with self._changed:
            return len(self._heap) + len(self._running)

    def is_running(self, prompt_id: str) -> bool:
        with self._changed:
            return any(item[1] == prompt_id for item in self._running.values())

    def clear(self) -> None:
        """Drop all waiting prompts."""
        with self._changed:
            self._heap = []
            self._on_change()

    def delete(self, prompt_id: Any) -> bool:
        """Drop one waiting prompt; False if it does not wait."""
        with self._changed:
            for position, item in enumerate(self._heap):
                if item[1] == prompt_id:
                    del self._heap[position]
                    heapq.heapify(self._heap)
                    self._on_change()
                    return True
            return False

    def cancel(self, prompt_id: str, interrupt: Callable[[], None]) -> bool:
        """Drop a waiting prompt or interrupt a running one, without a gap between the look and the deed."""
        with self._changed:
            if self.is_running(prompt_id):
                interrupt()
                return True
            return self.delete(prompt_id)

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, dict[str, Any]]:
        """History entries by prompt id, oldest first: the last `max_items`, or those from the `offset`-th oldest on."""
        with self._changed:
            ids = list(self._history)
            first = max(len(ids) - max_items, 0) if offset < 0 and max_items is not None else max(offset, 0)
            chosen = ids[first:] if max_items is None else ids[first : first + max_items]
            return {prompt_id: self._history[prompt_id] for prompt_id in chosen}

    def history_of(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """`{prompt_id: entry}`, or `{}` for whatever is not in history."""
        with self._changed:
            entry = self._history.get(prompt_id)
            return {} if entry is None else {prompt_id: entry}

    def forget(self, prompt_ids: Iterable[Any] | None = None) -> None:
        """Drop some history entries, or all of them."""
        with self._changed:
            if prompt_ids is None:
                self._history.clear()
                return
            for prompt_id in prompt_ids:
                self._history.pop(prompt_id, None)

    def set_flag(self, name: str, value: bool) -> None:
        """Leave an order for the worker thread, which is woken if idle."""
        with self._changed:
            self._flags[name] = value
            self._changed.notify()

    def take_flags(self) -> dict[str, bool]:
        """The orders left since the last call."""
        with self._changed:
            flags, self._flags = self._flags, {}
            return flags
