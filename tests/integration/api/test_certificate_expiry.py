"""When a server's certificate ends is read from the server, trusted or not."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from api.server.metrics.certificates import expiries, expiry
from tests.services import make_settings
from tests.tls import Authority


def test_it_is_that_of_the_certificate_which_is_shown(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                plain, _ = server.accept()
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        ends_at_s = expiry("127.0.0.1", port)
        found = expiries(make_settings(tmp_path, public_url=f"https://127.0.0.1:{port}"))
        thread.join(10)

    assert ends_at_s > time.time()
    assert found == {f"127.0.0.1:{port}": ends_at_s}


def test_a_server_that_is_away_has_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        expiry("127.0.0.1", port)
    assert expiries(make_settings(tmp_path, public_url=f"https://127.0.0.1:{port}")) == {}
