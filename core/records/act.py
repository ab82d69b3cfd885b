"""An act that matters afterwards: who did what, to what, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

ActName: TypeAlias = Literal[
    "key.create",
    "key.rotate",
    "key.revoke",
    "tenant.create",
    "tenant.change",
    "gpu.drain",
    "gpu.resume",
    "gpu.restart",
    "host.leave",
    "rollout.begin",
    "rollout.resume",
    "rollout.abort",
    "rollout.stop",
    "rollout.done",
    "job.delete",
    "asset.delete",
    "webhook.replay",
    "webhook.purge",
    "model.put",
    "model.remove",
    "model_token.put",
    "model_token.remove",
    "secret_key.adopt",
    "settings.start",
]
ACTS: tuple[ActName, ...] = get_args(ActName)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who does something."""

    #: For people: the name of a key, or `user@host`. Empty for a key of the ledger, whose name is looked up.
    who: str = ""
    #: None: a key of the settings, nobody was asked for one, or a command on the ledger's own machine.
    key_id: str | None = None
    tenant: str | None = None
    #: The address of the client; None for a command.
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class Act:
    """One line of the book of acts."""

    #: Grows with time.
    id: int
    at_ms: int
    by: Actor
    act: str
    #: What it was done to: an id or a name.
    subject: str
    #: What else there is to say; never a secret.
    details: dict[str, Any]
