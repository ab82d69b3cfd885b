"""A runner's session with its instance as it is now."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.prompts.session import Pace
from core.errors import ComfyUnavailable
from core.ledger.instances import UNHEALTHY
from tasks.runner.connection import REPLACED_WITHIN_S, Connection
from tests.makers import NAME, WORKER, BrokerlessRuntime, FakeComfyUI, FakeSession, come_up


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> FakeComfyUI:
    return FakeComfyUI(monkeypatch)


@pytest.fixture
def connection(runtime: BrokerlessRuntime) -> Connection:
    return Connection(runtime, NAME)


def session_of(connection: Connection) -> FakeSession:
    session: Any = connection.get()[1]
    assert isinstance(session, FakeSession)
    return session


def test_one_session_for_as_long_as_it_is_connected(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    record = come_up(runtime.ledger)
    instance, _ = connection.get()
    assert instance == record
    session = session_of(connection)
    assert session.is_connected
    assert session.client.base_url == record.url
    assert session.client.cleared == 1, "what a dead predecessor has posted"
    runtime.ledger.instances.heartbeat(NAME, worker=WORKER, state=UNHEALTHY, reason=None, is_drained=False, restarts=0)
    assert session_of(connection) is session, "nobody asks the ledger in between"
    assert len(comfyui.sessions) == 1


def test_one_that_was_cut_is_opened_again(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    come_up(runtime.ledger)
    session = session_of(connection)
    session.is_connected = False
    assert session_of(connection) is session
    assert session.is_connected
    assert session.client.cleared == 1, "those prompts are ours"


def test_an_instance_that_was_replaced_gets_a_new_one(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    come_up(runtime.ledger)
    old = session_of(connection)
    come_up(runtime.ledger, url="http://127.0.0.1:2")
    assert session_of(connection) is old
    connection.lose()
    new = session_of(connection)
    assert (new.client.base_url, old.is_connected, new.is_connected) == ("http://127.0.0.1:2", False, True)


def test_an_attached_one_may_run_what_others_have_posted(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    come_up(runtime.ledger, kind="attached")
    assert session_of(connection).client.cleared == 0


@pytest.mark.parametrize("kind", ["attached", "comfyui"])
def test_how_long_a_silent_one_is_waited_for(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection, kind: str
) -> None:
    come_up(runtime.ledger, kind=kind)
    settings = runtime.settings
    limit_s = settings.mute_s + REPLACED_WITHIN_S
    own = Pace(interrupt_grace_s=settings.interrupt_grace_s, mute_s=limit_s, unresponsive_s=limit_s)
    attached = Pace(interrupt_grace_s=settings.interrupt_grace_s, mute_s=settings.mute_s)
    assert session_of(connection).pace == (attached if kind == "attached" else own)
    assert REPLACED_WITHIN_S == 60.0


def test_without_a_healthy_instance_there_is_none(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    with pytest.raises(ComfyUnavailable, match="is not healthy"):
        connection.get()
    runtime.ledger.instances.register(name=NAME, host="here", worker=WORKER, kind="simulator", gpu="0")
    with pytest.raises(ComfyUnavailable, match="is not healthy"):
        connection.get()
    come_up(runtime.ledger)
    runtime.ledger.instances.heartbeat(NAME, worker=WORKER, state=UNHEALTHY, reason=None, is_drained=False, restarts=0)
    with pytest.raises(ComfyUnavailable, match="is not healthy"):
        connection.get()
    come_up(runtime.ledger, url=None)
    with pytest.raises(ComfyUnavailable, match="is not healthy"):
        connection.get()
    assert comfyui.sessions == []


def test_once_closed_there_is_none_any_more(
    runtime: BrokerlessRuntime, comfyui: FakeComfyUI, connection: Connection
) -> None:
    connection.close()
    come_up(runtime.ledger)
    with pytest.raises(ComfyUnavailable, match="ends"):
        connection.get()
    other = Connection(runtime, NAME)
    session = session_of(other)
    other.close()
    assert not session.is_connected
    with pytest.raises(ComfyUnavailable, match=f"The worker of {NAME} ends"):
        other.get()
