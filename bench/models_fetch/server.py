"""A server of one model file, in a process of its own: it gives ranges, and sends from the page cache.

python -m bench.models_fetch.server FILE
"""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def model_served(folder: Path, size: int) -> Iterator[tuple[str, str]]:
    """Make a file in a folder and serve it; yields its URL and its hash."""
    path, digest = folder / "model.safetensors", hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 2**24):
            piece = os.urandom(min(2**24, size - start))
            file.write(piece)
            digest.update(piece)
    command = [sys.executable, "-m", "bench.models_fetch.server", str(path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), digest.hexdigest()
    finally:
        server.kill()
        server.communicate()


def serve(path: Path) -> None:
    """Serve one file on a free port, and print its URL, until killed."""
    size = path.stat().st_size

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            start, end = (int(wanted[1]), min(int(wanted[2]) + 1, size)) if wanted else (0, size)
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("ETag", '"model"')
            self.end_headers()
            with path.open("rb") as file:
                try:
                    self.connection.sendfile(file, start, end - start)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_arguments: object) -> None:
            """Say nothing: connections are hung up on when a fetch is over."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}/model.safetensors", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
