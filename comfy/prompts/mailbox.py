"""News about a prompt on its way from the thread that reads the socket to the thread that waits."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable

from comfy.prompts.frames import Preview
from comfy.prompts.progress import PromptListener
from core.background import failure_of
from core.records.progress import Progress

#: What is logged with an error out of a listener.
LISTENER = "news of a prompt"
_MAX_PREVIEWS = 256
#: What may be told of single nodes in one go; a listener that is slower than that misses some.
_MAX_NODES = 1_000


class Mailbox:
    """What happened to a prompt and is not yet delivered to its listener.

    The thread that reads the socket must never wait for a listener, so it only leaves news here. News that newer news
    replaces is dropped: progress, and JPEG previews of the same node. PNG frames stay: nodes that send pictures
    instead of saving them use the same frames, and these pictures exist nowhere else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_started = False
        self._progress: Progress | None = None
        self._previews: deque[Preview] = deque(maxlen=_MAX_PREVIEWS)
        self._nodes: deque[Callable[[PromptListener], None]] = deque(maxlen=_MAX_NODES)

    def put_progress(self, progress: Progress) -> None:
        """Leave the newest point of the run."""
        with self._lock:
            self._progress = progress

    def put_preview(self, preview: Preview) -> None:
        """Leave a picture or text."""
        with self._lock:
            last = self._previews[-1] if self._previews else None
            if last and preview.content_type != "image/png" and _same_slot(last, preview):
                self._previews.pop()
            self._previews.append(preview)

    def put_node(self, tell: Callable[[PromptListener], None]) -> None:
        """Leave what is to be told of a node: each of them has but one thing to tell."""
        with self._lock:
            self._nodes.append(tell)

    def deliver(self, listener: PromptListener, *, has_started: bool) -> None:
        """Tell a listener, in its own thread, whatever it was not told yet.

        What it stumbles over is logged: it hears news, and the prompt goes on and has a result without them.
        """
        if has_started and not self._told_started:
            self._told_started = True
            failure_of(listener.on_started, LISTENER)
        progress, previews, nodes = self._take()
        for preview in previews:
            tell = functools.partial(listener.on_preview, preview.node_id, preview.content_type, preview.payload)
            failure_of(tell, LISTENER)
        for tell_node in nodes:
            failure_of(functools.partial(tell_node, listener), LISTENER)
        if progress is not None:
            failure_of(functools.partial(listener.on_progress, progress), LISTENER)

    def _take(self) -> tuple[Progress | None, list[Preview], list[Callable[[PromptListener], None]]]:
        with self._lock:
            progress, self._progress = self._progress, None
            previews, nodes = list(self._previews), list(self._nodes)
            self._previews.clear()
            self._nodes.clear()
            return progress, previews, nodes


def _same_slot(one: Preview, other: Preview) -> bool:
    return one.node_id == other.node_id and one.content_type == other.content_type
