"""Remote control: only the worker that owns the instance acts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.instance.agent import InstanceAgent
from tasks.instance.control import fleet_drain, fleet_interrupt, fleet_look_again, fleet_restart, fleet_resume
from tasks.messaging.context import ProcessContext
from tests.makers import NAME


class Agent(InstanceAgent):
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.name = NAME
        self.asked: list[str] = []

    def interrupt(self, prompt_id: str) -> None:
        self.asked.append(f"interrupt {prompt_id}")

    def look_again(self) -> None:
        self.asked.append("look again")

    def drain(self) -> None:
        self.asked.append("drain")

    def resume(self) -> None:
        self.asked.append("resume")

    def restart(self) -> None:
        self.asked.append("restart")


@pytest.fixture
def agent() -> Agent:
    return Agent()


def state_of(agent: Agent | None) -> Any:
    """The state of a worker with this agent."""
    context = ProcessContext("gpu" if agent else "io")
    if agent is not None:
        context._held[InstanceAgent] = agent
    return SimpleNamespace(app=SimpleNamespace(process_context=context))


COMMANDS: list[tuple[Callable[..., dict[str, bool]], tuple[str, ...], str]] = [
    (fleet_interrupt, ("p1",), "interrupt p1"),
    (fleet_drain, (), "drain"),
    (fleet_resume, (), "resume"),
    (fleet_restart, (), "restart"),
]


@pytest.mark.parametrize(("command", "arguments", "asked"), COMMANDS)
def test_the_owner_of_the_instance_acts(
    agent: Agent, command: Callable[..., dict[str, bool]], arguments: tuple[str, ...], asked: str
) -> None:
    assert command(state_of(agent), NAME, *arguments) == {"ok": True}
    assert agent.asked == [asked]


@pytest.mark.parametrize(("command", "arguments", "_asked"), COMMANDS)
def test_no_other_does(
    agent: Agent, command: Callable[..., dict[str, bool]], arguments: tuple[str, ...], _asked: str
) -> None:
    assert command(state_of(agent), "gpu1@here", *arguments) == {"ok": False}
    assert command(state_of(None), NAME, *arguments) == {"ok": False}
    assert agent.asked == []


def test_every_gpu_worker_looks_again(agent: Agent) -> None:
    assert fleet_look_again(state_of(agent)) == {"ok": True}
    assert agent.asked == ["look again"]
    assert fleet_look_again(state_of(None)) == {"ok": False}
