"""Remote control of GPU workers, through Celery's own: what a worker does when it is asked to.

Commands travel past the queues and reach a worker that is busy. An answer means that it has begun, not that it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.control import control_command

from tasks.instance.agent import InstanceAgent
from tasks.messaging.context import context_of


@control_command(args=[("instance", str), ("prompt_id", str)])
def fleet_interrupt(state: Any, instance: str, prompt_id: str) -> dict[str, bool]:
    """Interrupt one prompt, if this worker owns the instance it runs on."""
    return _have_agent(state, instance, lambda agent: agent.interrupt(prompt_id))


@control_command()
def fleet_look_again(state: Any) -> dict[str, bool]:
    """Look now for files that were added to the instance's folders."""
    agent = context_of(state.app).get(InstanceAgent)
    if agent is not None:
        agent.look_again()
    return {"ok": agent is not None}


@control_command(args=[("instance", str)])
def fleet_drain(state: Any, instance: str) -> dict[str, bool]:
    """Take no more jobs until told otherwise."""
    return _have_agent(state, instance, lambda agent: agent.drain())


@control_command(args=[("instance", str)])
def fleet_resume(state: Any, instance: str) -> dict[str, bool]:
    """Take jobs again, and end a quarantine."""
    return _have_agent(state, instance, lambda agent: agent.resume())


@control_command(args=[("instance", str)])
def fleet_restart(state: Any, instance: str) -> dict[str, bool]:
    """Start the instance anew when its job is done."""
    return _have_agent(state, instance, lambda agent: agent.restart())


def _have_agent(state: Any, instance: str, act: Callable[[InstanceAgent], None]) -> dict[str, bool]:
    """Let this worker's agent act if it owns the instance."""
    agent = context_of(state.app).get(InstanceAgent)
    if agent is None or agent.name != instance:
        return {"ok": False}
    act(agent)
    return {"ok": True}
