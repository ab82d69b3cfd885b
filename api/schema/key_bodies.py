"""The bodies in which operators make keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from api.schema import fields
from api.schema.blocks import Strict
from api.schema.bodies import MAX_PRIORITY
from api.schema.tenant_bodies import TenantName
from core.records.access import DEFAULT_TENANT, Limits, Scope
from core.records.requirements import POOL

MAX_NAME_CHARS = 64
MAX_LISTED = 100
#: How long the secret before may go on beside a new one.
DAY_S, LONGEST_KEEP_S = 24 * 3600, 30 * 24 * 3600
LONGEST_KEY_S = 10 * 365 * 24 * 3600
KEY_EXAMPLE: dict[str, Any] = {"name": "ci", "tenant": "default", "scopes": ["submit", "read"], "max_priority": 0}

PoolName = Annotated[str, Field(pattern=POOL)]
PlainText = Annotated[
    str,
    AfterValidator(lambda value: fields.plain_text(value, MAX_NAME_CHARS)),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}),
]


class KeyBody(Strict):
    """A new key."""

    model_config = ConfigDict(json_schema_extra={"examples": [KEY_EXAMPLE]})
    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("scope", "permissions", "roles"), "scopes"),
        **dict.fromkeys(("expiresin", "expires", "ttl", "lifetime"), "ends_in_s"),
        **dict.fromkeys(("template", "workflows"), "templates"),
        "pool": "pools",
        "priority": "max_priority",
    }

    name: PlainText = Field(description="For people.")
    tenant: TenantName = Field(DEFAULT_TENANT, description="Whose jobs and files it brings and sees.")
    scopes: list[Scope] = Field(min_length=1, max_length=MAX_LISTED, description="What it is good for.")
    ends_in_s: float | None = Field(
        None, gt=0, le=LONGEST_KEY_S, allow_inf_nan=False, description="It is good for so many seconds; null: no end."
    )
    max_priority: int | None = Field(
        None, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="The highest priority of its jobs."
    )
    templates: list[PlainText] | None = Field(
        None, min_length=1, max_length=MAX_LISTED, description="Its jobs are made from these alone."
    )
    pools: list[PoolName] | None = Field(
        None, min_length=1, max_length=MAX_LISTED, description="Its jobs require one of these."
    )

    def limits(self) -> Limits:
        """Return what the key may ask for."""
        return Limits(
            max_priority=self.max_priority,
            templates=None if self.templates is None else tuple(dict.fromkeys(self.templates)),
            pools=None if self.pools is None else tuple(dict.fromkeys(self.pools)),
        )


class RotateBody(Strict):
    """How a key gets another secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"keep_s": DAY_S}]})

    keep_s: float = Field(
        DAY_S, ge=0, le=LONGEST_KEEP_S, allow_inf_nan=False, description="For how long the one before is good as well."
    )
