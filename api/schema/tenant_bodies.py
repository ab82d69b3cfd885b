"""The bodies in which operators make tenants, and say what they may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from api.schema.blocks import Strict
from core.errors import InvalidRequest
from core.records.tenant_limits import LIMITS, UNLIMITED, TenantLimits
from core.settings.settings import MOST, MOST_BYTES

#: What a tenant may be called: it stands in paths, and never in ours.
TENANT_NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
MAX_WEIGHT = 1000.0
#: In place of a number: no limit, whatever the fleet's default is.
UNLIMITED_WORD: Final = "unlimited"
WEIGHT = "Its share of a busy fleet, beside those of others."

TenantName = Annotated[str, Field(pattern=TENANT_NAME, max_length=63)]
Weight = Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)]


def _limit(most: int, *, is_whole: bool = True) -> Callable[[Any], Any]:
    what = "an integer" if is_whole else "a number"

    def check(value: Any) -> Any:
        if value is None or value == UNLIMITED_WORD:
            return value
        is_number = type(value) is int or (not is_whole and type(value) is float and math.isfinite(value))
        if not is_number or not 0 <= value <= most:
            raise ValueError(f'{what} from 0 to {most}, "{UNLIMITED_WORD}", or null for the default of the fleet')
        return value

    return check


def _schema(kind: Literal["integer", "number"], most: int) -> WithJsonSchema:
    number = {"type": kind, "minimum": 0, "maximum": most}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "const": UNLIMITED_WORD}, {"type": "null"}]})


Count = Annotated[Any, AfterValidator(_limit(MOST)), _schema("integer", MOST)]
Bytes = Annotated[Any, AfterValidator(_limit(MOST_BYTES)), _schema("integer", MOST_BYTES)]
Seconds = Annotated[Any, AfterValidator(_limit(MOST, is_whole=False)), _schema("number", MOST)]


class LimitsBlock(Strict):
    """What a tenant may have at most. 0: nothing; null: the default of the fleet."""

    max_waiting: Count = Field(None, description="Jobs that wait.")
    max_running: Count = Field(None, description="Jobs that run at once; more of them wait.")
    max_requests_per_minute: Count = Field(None, description="Requests of any kind.")
    max_kept_bytes: Bytes = Field(None, description="Uploads and stored outputs.")
    max_gpu_s_per_day: Seconds = Field(None, description="GPU seconds of one day, UTC.")

    def changes(self) -> dict[str, float | None]:
        """Return the limits that the body names, as they are recorded."""
        return {
            name: UNLIMITED if value == UNLIMITED_WORD else value
            for name in LIMITS
            if name in self.model_fields_set
            for value in (getattr(self, name),)
        }


class TenantBody(LimitsBlock):
    """A new tenant."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "acme", "weight": 2, "max_waiting": 1000}]})

    name: TenantName = Field(description="Small letters, digits, dots, dashes, underscores.")
    weight: Weight = Field(1.0, description=WEIGHT)

    def limits(self) -> TenantLimits:
        """Return what it may have."""
        return TenantLimits.of(self.changes())


class TenantChangesBody(LimitsBlock):
    """What of a tenant changes; what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"weight": 2, "max_waiting": 1000, "max_kept_bytes": "unlimited"}]}
    )

    weight: Weight | None = Field(None, description=WEIGHT)

    @model_validator(mode="after")
    def _changes_something(self) -> TenantChangesBody:
        if not self.model_fields_set:
            raise InvalidRequest(f"The body changes nothing; it may have: weight, {', '.join(LIMITS)}.")
        return self
