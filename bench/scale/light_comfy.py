"""A ComfyUI that is nothing but its answers: prompts take their time, and leave a small picture.

What follows a prompt is the real thing, from the session down to its progress; only sockets and servers are missing,
of which three hundred would be too much for one machine.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comfy.client.client import Accepted, ComfyClient, Place
from comfy.client.history import History
from comfy.client.printed import PrintedEntry
from comfy.prompts.frames import Event
from comfy.prompts.session import ComfySession

#: A little picture, so that every job has an output.
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)
#: Jobs take longer or shorter than they should by this part, each the same every time.
JITTER = 0.2


class Stage:
    """One thread that plays the prompts of all light GPUs of a process."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Iterator[float]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._thread.start()

    def play(self, steps: Iterator[float]) -> None:
        """Go through an iterator from now on; it gives the seconds until its next step."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic(), next(self._numbers), steps))
            self._changed.notify()

    def close(self) -> None:
        """End it, whatever still plays."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (steps := self._next()) is not None:
            pause_s = next(steps, None)
            if pause_s is not None:
                with self._changed:
                    heapq.heappush(self._due, (time.monotonic() + pause_s, next(self._numbers), steps))

    def _next(self) -> Iterator[float] | None:
        with self._changed:
            while not self._is_over:
                now_s = time.monotonic()
                if self._due and self._due[0][0] <= now_s:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - now_s if self._due else None)
        return None


class LightSession(ComfySession):
    """The session with one of them."""

    def __init__(self, stage: Stage, output_dir: Path, run_s: float) -> None:
        self._server = LightServer(stage, output_dir, run_s, tell=lambda event: self._dispatch(event))
        super().__init__(self._server.base_url, client=self._server)
        self._socket = NoSocket()  # type: ignore[assignment]

    def open(self) -> None:
        """There is nothing to connect with."""


class NoSocket:
    """Stands where the websocket would be, which is always up."""

    client_id = "light"

    def ensure_connected(self) -> str:
        """Return the id of the connection."""
        return self.client_id

    def reconnect(self) -> None:
        """Do nothing: no event is ever lost."""

    def close(self) -> None:
        """Do nothing."""


class LightServer(ComfyClient):
    """One light ComfyUI, with the methods of its client: one prompt runs, the others wait."""

    def __init__(self, stage: Stage, output_dir: Path, run_s: float, *, tell: Callable[[Event], None]) -> None:
        super().__init__("http://127.0.0.1:1")
        self._stage, self._output_dir, self._run_s, self._tell = stage, output_dir, run_s, tell
        self._lock = threading.Lock()
        self._queue: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._interrupted: set[str] = set()
        self._ended: dict[str, History] = {}

    def post_prompt(self, graph: Mapping[str, Any], *, prompt_id: str, **_more: Any) -> Accepted:
        with self._lock:
            self._queue.append((prompt_id, graph))
            is_first = len(self._queue) == 1
        if is_first:
            self._stage.play(self._runs(prompt_id, graph))
        return Accepted(prompt_id=prompt_id, number=0)

    def history(self, prompt_id: str, **_limits: Any) -> History | None:
        # Whoever asks has heard of the end, and asks once.
        return self._ended.pop(prompt_id, None)

    def find(self, prompt_id: str, **_limits: Any) -> Place | None:
        if prompt_id in self._ended:
            return "finished"
        with self._lock:
            places = [each for each, _ in self._queue]
        return None if prompt_id not in places else "pending" if places.index(prompt_id) else "running"

    def waits_in_vain(self, *_prompt: str, **_limits: Any) -> bool:
        return False

    def interrupt(self, prompt_id: str, **_limits: Any) -> None:
        self._interrupted.add(prompt_id)

    def printed(self) -> list[PrintedEntry]:
        return []

    def _runs(self, prompt_id: str, graph: Mapping[str, Any]) -> Iterator[float]:
        """Play one prompt, then let the next one begin."""
        run_s = self._run_s * (1 + JITTER * (2 * random.Random(prompt_id).random() - 1))

        def tell(kind: str, **data: Any) -> None:
            self._tell(Event(kind=kind, prompt_id=prompt_id, data={"prompt_id": prompt_id, **data}))

        started_ms = time.time_ns() // 1_000_000
        tell("execution_start", timestamp=started_ms)
        tell("execution_cached", nodes=[], timestamp=started_ms)
        outputs: dict[str, Any] = {}
        for node_id, node in graph.items():
            tell("executing", node=node_id)
            steps = int(node["inputs"].get("steps") or 0)
            for step in range(steps):
                yield run_s / steps
                if prompt_id in self._interrupted:
                    break
                tell("progress", node=node_id, value=step + 1, max=steps)
            if "filename_prefix" in node["inputs"]:
                outputs[node_id] = {"images": [self._saved(str(node["inputs"]["filename_prefix"]))]}
        end = "execution_interrupted" if prompt_id in self._interrupted else "execution_success"
        ended_ms = time.time_ns() // 1_000_000
        messages = (("execution_start", {"timestamp": started_ms}), (end, {"timestamp": ended_ms}))
        status = "success" if end == "execution_success" else "error"
        self._ended[prompt_id] = History(prompt_id=prompt_id, status=status, messages=messages, outputs=outputs)
        with self._lock:
            self._queue.popleft()
            following = self._queue[0] if self._queue else None
        tell(end, timestamp=ended_ms)
        tell("executing", node=None)
        if following is not None:
            self._stage.play(self._runs(*following))

    def _saved(self, prefix: str) -> dict[str, str]:
        path = self._output_dir / f"{prefix}_00001_.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
        return {"filename": path.name, "subfolder": str(path.parent.relative_to(self._output_dir)), "type": "output"}
