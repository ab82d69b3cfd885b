"""The body in which an operator orders a rollout."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from api.schema.blocks import Strict

#: What a version looks like: it becomes a variable in the environment of a command.
VERSION = r"^[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}$"
MOST_HOSTS, MOST_AT_ONCE = 10_000, 1_000

HostName = Annotated[str, Field(min_length=1, max_length=255)]


class RolloutBody(Strict):
    """Renew the processes of hosts, one host after the other."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"kind": "restart"}]})

    kind: Literal["restart", "upgrade"] = Field(
        description="restart: the same code anew. upgrade: another version, brought by each host's own "
        "COMFYLINE_UPGRADE_COMMAND, or by whoever rolls its image."
    )
    version: Annotated[str, Field(pattern=VERSION)] | None = Field(
        None, description="The version of Comfyline that an upgrade brings."
    )
    hosts: list[HostName] = Field(
        default_factory=list, max_length=MOST_HOSTS, description="These, in this order. Without any, all."
    )
    at_once: int = Field(1, ge=1, le=MOST_AT_ONCE, description="How many hosts at once, after the first one.")
    timeout_s: float = Field(
        900.0, ge=5, le=604800, allow_inf_nan=False, description="A host on which nothing moves for so long has failed."
    )
    max_failures: float = Field(
        0.2,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Of the attempts on renewed hosts this share may fail or be lost, beyond that of the others.",
    )
    watch_s: float = Field(
        30.0,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="How long a host is watched before it is the next one's turn. With a warm-up, not at all.",
    )

    @model_validator(mode="after")
    def _has_version(self) -> RolloutBody:
        if (self.kind == "upgrade") != (self.version is not None):
            raise ValueError("an upgrade has a version, a restart none")
        return self
