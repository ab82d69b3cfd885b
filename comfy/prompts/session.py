"""Running prompts on one ComfyUI server: its HTTP client and one websocket, shared by the prompts in flight."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from comfy.client.client import Accepted, ComfyClient
from comfy.client.rejection import dropped_outputs
from comfy.client.timeouts import Pace
from comfy.client.transport import refused, unanswered
from comfy.liveness.watchdog import Watchdog
from comfy.prompts.account import Account
from comfy.prompts.event_socket import EventSocket
from comfy.prompts.frames import Event, Preview
from comfy.prompts.node_work import ExpectedWork
from comfy.prompts.polling import was_taken
from comfy.prompts.progress import ProgressTracker, PromptListener
from comfy.prompts.prompt import PromptHandle
from comfy.prompts.result import PromptResult
from core.errors import ComfyUnavailable

__all__ = ["ComfySession", "Pace", "PromptHandle", "PromptResult"]


class ComfySession:
    """A context manager around the connection to one server. Thread-safe.

    ComfyUI runs one prompt at a time; a second one queued behind it starts within a millisecond of the first one's end,
    without our round trip between them. More than two gain nothing.
    """

    def __init__(self, base_url: str, *, client: ComfyClient | None = None, pace: Pace | None = None) -> None:
        self.client = client or ComfyClient(base_url)
        self._pace = pace or Pace()
        self._lock = threading.Lock()
        #: Unfinished prompts in the order they were queued.
        self._handles: dict[str, PromptHandle] = {}
        self._socket = EventSocket(self.client.base_url, on_frame=self._dispatch, on_lost=self._lose)

    def __enter__(self) -> ComfySession:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect, and learn what the server can do, so that no prompt has to wait for it.

        A server without a websocket, as behind a proxy that passes none on, is polled.
        Raises:
          ComfyUnavailable: the server does not answer.
        """
        self.client.capabilities()
        self._client_id()

    @property
    def is_connected(self) -> bool:
        """Whether the socket is up: the same server process is still there."""
        return self._socket.client_id is not None

    def close(self) -> None:
        """Close all connections. Prompts that run go on running. Idempotent."""
        self._socket.close()
        self.client.close()

    def submit(
        self,
        graph: Mapping[str, Any],
        *,
        prompt_id: str,
        extra_data: Mapping[str, Any] | None = None,
        listener: PromptListener | None = None,
        nodes_total: int | None = None,
        work: ExpectedWork | None = None,
        resume: bool = False,
        watchdog: Watchdog | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> PromptHandle:
        """Queue a prompt and return a handle to wait for it.

        Parameters:
          prompt_id: canonical lowercase UUID, new for each attempt.
          extra_data: for nodes; `extra_pnginfo` goes into the metadata of PNG files.
          listener: told about start, progress and previews by the thread that calls `wait`.
          nodes_total: how many nodes will run, for the progress; all nodes of the graph by default.
          work: what its nodes should take, for the progress; guessed from the graph by default.
          resume: this very prompt id may have been posted before; look for it first and take it up if it is there.
          watchdog: makes `wait` raise `PromptStuck`; a new one for each prompt.
          headers: of the request that posts it, beside our own.
        Raises:
          PromptRejected: ComfyUI refuses the graph, or a part of it: a job runs whole or not at all.
          ComfyUnavailable: ComfyUI does not take the prompt.
        """
        tracker = ProgressTracker(graph, nodes_total=nodes_total, work=work)
        account = Account(prompt_id, graph)
        if resume and self.client.find(prompt_id) is not None:
            # Its events go to a connection that is not ours.
            return self._register(prompt_id, None, account, tracker, listener, watchdog)
        client_id = self._client_id()
        # Registered before it is posted: its first events may overtake the reply.
        handle = self._register(prompt_id, client_id, account, tracker, listener, watchdog)
        try:
            # Without a socket the prompt still needs a client id, or cached outputs are missing from some histories.
            given: dict[str, Any] = {"extra_data": extra_data, "headers": headers}
            accepted = self._post(graph, prompt_id, client_id or str(uuid.uuid4()), given)
            if accepted.prompt_id != prompt_id:
                self.client.interrupt(accepted.prompt_id)
                raise ComfyUnavailable("this ComfyUI is older than 0.3.45: it ignores prompt ids")
            if accepted.node_errors:
                handle.withdraw()
                raise dropped_outputs(accepted.node_errors)
        except BaseException:
            self._forget(handle)
            raise
        return handle

    def _client_id(self) -> str | None:
        """Return the id of the live socket; None if there is no getting one: the prompt is then polled.

        A server that is gone refuses the POST as well, which gives the better error.
        """
        try:
            return self._socket.ensure_connected()
        except ComfyUnavailable:
            return None

    def _post(self, graph: Mapping[str, Any], prompt_id: str, client_id: str, given: Mapping[str, Any]) -> Accepted:
        """Queue a prompt once, even if the connection breaks before the reply.

        Parameters: given - what else `post_prompt` takes.
        """
        try:
            return self.client.post_prompt(graph, prompt_id=prompt_id, client_id=client_id, **given)
        except ComfyUnavailable as exc:
            # The server never checks for duplicates, so the prompt is not sent again before we know that it is absent.
            if was_taken(self.client, prompt_id, self._pace, exc):
                return Accepted(prompt_id=prompt_id, number=0)
            if not (refused(exc) or unanswered(exc)):
                raise
        # The server answers, and does not have the prompt: it had closed an idle connection as we wrote to it, or was
        # mute for so long that the connection broke.
        return self.client.post_prompt(graph, prompt_id=prompt_id, client_id=client_id, **given)

    def _register(
        self,
        prompt_id: str,
        client_id: str | None,
        account: Account,
        tracker: ProgressTracker,
        listener: PromptListener | None,
        watchdog: Watchdog | None,
    ) -> PromptHandle:
        handle = PromptHandle(
            prompt_id,
            self.client,
            client_id=client_id,
            account=account,
            tracker=tracker,
            listener=listener,
            pace=self._pace,
            on_end=self._forget,
            on_deaf=self._replace_socket,
            watchdog=watchdog,
        )
        if client_id is None:
            account.miss()
        with self._lock:
            self._handles[prompt_id] = handle
            first = next(iter(self._handles.values()))
        first.come_next()
        if client_id is not None and client_id != self._socket.client_id:
            # The connection broke before the handle could hear of it.
            handle.lose_events(client_id)
        return handle

    def _forget(self, handle: PromptHandle) -> None:
        with self._lock:
            if self._handles.get(handle.prompt_id) is handle:
                del self._handles[handle.prompt_id]
            first = next(iter(self._handles.values()), None)
        if first is not None:
            first.come_next()

    # Called by the thread that reads the socket.

    def _dispatch(self, frame: Event | Preview) -> None:
        if frame.prompt_id is not None:
            handle = self._handles.get(frame.prompt_id)
        elif isinstance(frame, Preview):
            handle = self._running()
        else:
            if frame.kind == "status":
                self._nudge()
            return
        if handle is None:
            return
        if isinstance(frame, Preview):
            handle.receive_preview(frame)
        else:
            handle.receive(frame)

    def _running(self) -> PromptHandle | None:
        """Return the prompt that a frame without a prompt id belongs to: the only one that runs."""
        with self._lock:
            running = [handle for handle in self._handles.values() if handle.started.is_set()]
        return running[0] if len(running) == 1 else None

    def _nudge(self) -> None:
        with self._lock:
            handles = list(self._handles.values())
        for handle in handles:
            handle.poll_now()

    def _lose(self, client_id: str) -> None:
        # What answers at this address from now on may be another process, of another version.
        self.client.forget_capabilities()
        with self._lock:
            handles = list(self._handles.values())
        for handle in handles:
            handle.lose_events(client_id)

    def _replace_socket(self, client_id: str) -> None:
        """Replace a deaf connection: a prompt went on without events."""
        if self._socket.client_id == client_id:
            self._socket.reconnect()
