"""A broker that a test may lose, freeze and get back, whichever it is: its own Valkey, or a line to a shared server."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from core.settings import Settings
from tests.own_servers import OwnValkey
from tests.services import Broker
from tests.wire import Wire


class BrokerLine(Protocol):
    """How a test reaches a broker."""

    @property
    def broker(self) -> Broker:
        """Which broker it is, and where."""

    def settings(self, folder: Path, **overrides: Any) -> Settings:
        """Settings that use the broker over this line."""

    def away(self) -> None:
        """The broker is gone: connections end, new ones are refused."""

    def back(self) -> None:
        """It is there again, with what it had stored."""

    def freeze(self) -> None:
        """It keeps and takes connections and answers nothing."""

    def thaw(self) -> None:
        """It goes on."""


@dataclass(frozen=True, kw_only=True)
class OwnLine:
    """A Valkey of the test's own: killed, started, stopped in its tracks."""

    broker: Broker
    server: OwnValkey

    def settings(self, folder: Path, **overrides: Any) -> Settings:
        return self.broker.settings(folder, **overrides)

    def away(self) -> None:
        self.server.kill()

    def back(self) -> None:
        self.server.start()

    def freeze(self) -> None:
        self.server.freeze()

    def thaw(self) -> None:
        self.server.thaw()


@dataclass(frozen=True, kw_only=True)
class SharedLine:
    """A wire to a server that others use, too: the wire is cut, the server is not touched."""

    broker: Broker
    wire: Wire

    def settings(self, folder: Path, **overrides: Any) -> Settings:
        return self.broker.settings(folder, **overrides)

    def away(self) -> None:
        self.wire.cut()

    def back(self) -> None:
        self.wire.restore()

    def freeze(self) -> None:
        self.wire.freeze()

    def thaw(self) -> None:
        self.wire.thaw()


def own_line(server: OwnValkey) -> OwnLine:
    """A line to a Valkey of the test's own."""
    return OwnLine(broker=Broker(kind="valkey", url=server.url, namespace="fleet"), server=server)


def shared_line(broker: Broker) -> SharedLine:
    """A wire to a shared server; `wire.cut()` ends it."""
    parts = urlsplit(broker.url)
    assert parts.hostname is not None
    assert parts.port is not None
    wire = Wire(parts.hostname, parts.port)
    credentials = parts.netloc.rpartition("@")[0]
    address = f"{credentials}@127.0.0.1:{wire.port}" if credentials else f"127.0.0.1:{wire.port}"
    return SharedLine(broker=replace(broker, url=urlunsplit(parts._replace(netloc=address))), wire=wire)
