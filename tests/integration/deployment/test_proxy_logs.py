"""What nginx and Caddy, as deploy/ configures them, write down while the API behind them is away."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.front import Caddy, Front, Nginx


class Well(BaseHTTPRequestHandler):
    """An API that is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_what: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("kind", [Nginx, Caddy], ids=["nginx", "caddy"])
def test_signed_links_and_keys_are_in_no_log_when_the_api_is_away(kind: type[Front], tmp_path: Path) -> None:
    api = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    thread = threading.Thread(target=api.serve_forever, daemon=True)
    thread.start()
    with kind(tmp_path / "proxy", f"127.0.0.1:{api.server_port}") as front:
        api.shutdown()
        api.server_close()
        thread.join()
        link = f"{front.url}/api/v2/assets/1/content?expires=1&signature=do-not-write-me"

        answer = front.client().get(link, headers={"X-API-Key": "nor-this-key"}, timeout=10)

        assert answer.status_code == 502
    logs = "".join(path.read_text(errors="replace") for path in front.folder.glob("*.log"))
    assert "/api/v2/assets/1/content" in logs
    assert "do-not-write-me" not in logs
    assert "nor-this-key" not in logs
