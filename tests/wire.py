"""A TCP line to a service that a test can cut, restore and freeze without touching the service itself."""

from __future__ import annotations

import contextlib
import socket
import threading


class Wire:
    """Forwards `127.0.0.1:port` to a service. `cut` refuses and resets, `freeze` accepts and says nothing."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._moving = threading.Event()
        self._moving.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._is_cut = False
        self.port = 0
        self._listener = self._listen()

    def freeze(self) -> None:
        """From now on no byte moves, in either direction; new connections are accepted and then silent."""
        self._moving.clear()

    def thaw(self) -> None:
        """Let everything that was held back go on."""
        self._moving.set()

    def cut(self) -> None:
        """End every connection and refuse new ones, as a service does that was stopped."""
        with contextlib.suppress(OSError):
            # Closing alone does not wake a thread that waits in accept().
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._moving.set()
        with self._lock:
            self._is_cut = True
            sockets, self._sockets = self._sockets, []
            threads, self._threads = self._threads, []
        for each in sockets:
            _shut(each)
        for thread in threads:
            thread.join(timeout=5)
        for each in sockets:
            each.close()

    def restore(self) -> None:
        """Take connections again, on the same port."""
        self._is_cut = False
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._start(self._accept, listener)
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            if self._keep(near):
                self._start(self._join, near)

    def _join(self, near: socket.socket) -> None:
        self._moving.wait()
        try:
            far = socket.create_connection(self._target, timeout=5)
        except OSError:
            _shut(near)
            return
        far.settimeout(None)
        if self._keep(far):
            self._start(self._pump, far, near)
            self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._moving.wait()
                sink.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(sink)

    def _keep(self, each: socket.socket) -> bool:
        """Remember a socket for its end, unless that has come already."""
        with self._lock:
            if not self._is_cut:
                self._sockets.append(each)
                return True
        each.close()
        return False

    def _start(self, target: object, *arguments: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
