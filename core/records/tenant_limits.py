"""What a tenant may have at most, as it was set and as it is in force over the fleet's defaults, and what it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

#: In place of a number: no limit, whatever the fleet's default is.
UNLIMITED: Final = -1


@dataclass(frozen=True, kw_only=True)
class TenantLimits:
    """Each limit by the name that it has everywhere: as a column, in bodies, options and (`tenant_`) settings.

    0 allows nothing at all. As set for a tenant, None is the fleet's default and `UNLIMITED` no limit; as in force, and
    as the defaults themselves, None is no limit.
    """

    #: Jobs that wait.
    max_waiting: int | None = None
    #: Jobs that run at once; more of them wait.
    max_running: int | None = None
    #: Requests of any kind in a minute.
    max_requests_per_minute: int | None = None
    #: Uploads and stored outputs.
    max_kept_bytes: int | None = None
    #: GPU seconds of one day, UTC.
    max_gpu_s_per_day: float | None = None

    def in_force(self, defaults: TenantLimits) -> TenantLimits:
        """Return what holds where the fleet has these defaults."""
        own = self.numbers()
        return TenantLimits.of({name: _over(own[name], default) for name, default in defaults.numbers().items()})

    def numbers(self) -> dict[str, Any]:
        """Return the limits by their names, in the order in which they are shown."""
        return {name: getattr(self, name) for name in LIMITS}

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> TenantLimits:
        """Return the limits that a mapping has by their names, whatever else is in it."""
        return cls(**{name: numbers.get(name) for name in LIMITS})


@dataclass(frozen=True, kw_only=True)
class InUse:
    """What a tenant has now of what its limits count; its requests are counted elsewhere."""

    waiting: int = 0
    running: int = 0
    kept_bytes: int = 0
    #: Since midnight, UTC.
    gpu_s_today: float = 0.0


#: The names of all limits.
LIMITS: Final = tuple(field.name for field in fields(TenantLimits))
#: Nothing is set.
NO_LIMITS: Final = TenantLimits()


def allows_nothing(name: str, what: str) -> str:
    """Return the words of a refusal by a limit of 0.

    Parameters: what - `keep no files`, as the tenant may.
    """
    return f"This tenant may {what}: its {name} is 0. Waiting does not help; an operator can raise the limit."


def _over(own: float | None, default: float | None) -> float | None:
    if own is None:
        return default
    return None if own == UNLIMITED else own
