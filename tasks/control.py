"""Remote control of GPU workers, through Celery's own: what a worker does, and how anybody asks for it.

Commands travel past the queues and reach a worker that is busy. An answer means that it has begun, not that it is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.worker.control import control_command

from core.broker_errors import broker_errors
from core.errors import BrokerUnavailable, InstanceUnreachable
from core.ledger.instances import InstanceRecord

if TYPE_CHECKING:
    from tasks.keeper import Keeper

#: How long a worker gets to answer; it does within milliseconds, also while it runs a job.
ANSWER_S = 5.0
DRAIN, RESUME, RESTART = "fleet_drain", "fleet_resume", "fleet_restart"


@control_command(args=[("instance", str), ("prompt_id", str)])
def fleet_interrupt(state: Any, instance: str, prompt_id: str) -> dict[str, bool]:
    """Interrupt one prompt, if this worker owns the instance it runs on."""
    return _have_keeper(state, instance, lambda keeper: keeper.interrupt(prompt_id))


@control_command()
def fleet_look_again(state: Any) -> dict[str, bool]:
    """Look now for files that were added to the instance's folders."""
    keeper: Keeper | None = getattr(state.app, "fleet_keeper", None)
    if keeper is not None:
        keeper.look_again()
    return {"ok": keeper is not None}


@control_command(args=[("instance", str)])
def fleet_drain(state: Any, instance: str) -> dict[str, bool]:
    """Take no more jobs until told otherwise."""
    return _have_keeper(state, instance, lambda keeper: keeper.drain())


@control_command(args=[("instance", str)])
def fleet_resume(state: Any, instance: str) -> dict[str, bool]:
    """Take jobs again, and end a quarantine."""
    return _have_keeper(state, instance, lambda keeper: keeper.resume())


@control_command(args=[("instance", str)])
def fleet_restart(state: Any, instance: str) -> dict[str, bool]:
    """Start the instance anew when its job is done."""
    return _have_keeper(state, instance, lambda keeper: keeper.restart())


def ask(app: Celery, command: str, instance: InstanceRecord) -> None:
    """Have the worker of an instance do one of `DRAIN`, `RESUME`, `RESTART`.

    Raises:
      InstanceUnreachable: its worker does not answer, or no longer owns it.
      BrokerUnavailable: the message broker does not answer.
    """
    try:
        replies = app.control.broadcast(
            command,
            arguments={"instance": instance.name},
            destination=[instance.worker],
            reply=True,
            timeout=ANSWER_S,
            limit=1,
        )
    except broker_errors(app.conf.broker_url) as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc
    if not any(answer.get("ok") is True for reply in replies or [] for answer in reply.values()):
        raise InstanceUnreachable(f"The worker of {instance.name} does not answer; does it run? See fleet gpus.")


def _have_keeper(state: Any, instance: str, act: Callable[[Keeper], None]) -> dict[str, bool]:
    """Let this worker's keeper act, if it is the one of that instance."""
    keeper: Keeper | None = getattr(state.app, "fleet_keeper", None)
    if keeper is None or keeper.name != instance:
        return {"ok": False}
    act(keeper)
    return {"ok": True}
