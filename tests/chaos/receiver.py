"""Takes webhooks of a chaos run and remembers which events came."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any


class Receiver(http.server.ThreadingHTTPServer):
    """Answers 200 to every post."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self._lock = threading.Lock()
        self._posts: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def keep(self, webhook_id: str, body: dict[str, Any]) -> None:
        """Remember one post."""
        with self._lock:
            self._posts[webhook_id].append(body)

    def posts(self) -> dict[str, list[dict[str, Any]]]:
        """The bodies that came, by the id of their event."""
        with self._lock:
            return {webhook_id: list(bodies) for webhook_id, bodies in self._posts.items()}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that is killed in mid-post is what these tests are about, and no error of ours."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keep(self.headers["webhook-id"], json.loads(content))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port of the loopback interface."""
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
