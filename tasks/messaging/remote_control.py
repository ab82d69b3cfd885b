"""How anybody asks the worker of a GPU to do something, through Celery's remote control"""

from __future__ import annotations

from celery import Celery

from core.errors import BrokerUnavailable, InstanceUnreachable
from core.messaging.broker_errors import broker_errors
from core.records.instance import InstanceRecord

#: How long a worker gets to answer; it does within milliseconds, also while it runs a job.
ANSWER_S = 5.0
#: Commands of `tasks.instance.control`.
DRAIN, RESUME, RESTART = "fleet_drain", "fleet_resume", "fleet_restart"


def ask(app: Celery, command: str, instance: InstanceRecord) -> None:
    """Have the worker of an instance do one of `DRAIN`, `RESUME`, `RESTART`.

    Raises:
      InstanceUnreachable: its worker does not answer, or no longer owns it.
      BrokerUnavailable: the message broker does not answer.
    """
    try:
        # A connection of its own: whoever publishes beside this keeps theirs, whatever becomes of this one.
        with app.connection_for_write() as connection:
            replies = app.control.broadcast(
                command,
                arguments={"instance": instance.name},
                destination=[instance.worker],
                reply=True,
                timeout=ANSWER_S,
                limit=1,
                connection=connection,
            )
    except broker_errors(app.conf.broker_url) as exc:
        raise BrokerUnavailable(f"The broker does not answer ({type(exc).__name__}).") from exc
    if not any(answer.get("ok") is True for reply in replies or [] for answer in reply.values()):
        raise InstanceUnreachable(f"The worker of {instance.name} does not answer; does it run? See comfyline gpus.")
