"""Tenants, their keys, and the caller of a request: whose jobs and files it may see, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from core.records.tenant_limits import NO_LIMITS, TenantLimits

#: Owns what came in without a key of another one: with `COMFYLINE_API_KEYS`, without any key, or before there were
#: tenants.
DEFAULT_TENANT: Final = "default"
#: In place of a tenant's name: whoever looks sees what all of them own. No tenant can have that name.
ALL_TENANTS: Final = "*"

#: What a key may be good for, see `docs/keys.md`.
Scope: TypeAlias = Literal["submit", "read", "cancel", "webhooks", "usage", "models", "operate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
#: Those of operators, who see what all tenants own.
OPERATORS: frozenset[str] = frozenset({"operate", "admin"})


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """An owner of jobs, files and keys."""

    name: str
    #: Its share of a busy fleet beside those of others.
    weight: float
    #: As set for it.
    limits: TenantLimits = NO_LIMITS
    created_at_ms: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a key may ask for of what its scopes allow; None: anything."""

    #: The highest priority.
    max_priority: int | None = None
    #: The templates its jobs may be made from; then it brings no graphs of its own.
    templates: tuple[str, ...] | None = None
    #: The pools of which its jobs may require one.
    pools: tuple[str, ...] | None = None


ANYTHING = Limits()


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key, without its secrets: the ledger has none but their hashes."""

    id: str
    tenant: str
    #: For people.
    name: str
    #: Sorted.
    scopes: tuple[str, ...]
    limits: Limits = ANYTHING
    created_at_ms: int
    #: It is good until then; None: until it is revoked.
    ends_at_ms: int | None = None
    revoked_at_ms: int | None = None
    last_used_at_ms: int | None = None
    #: The address of the client that used it last.
    last_used_by: str | None = None
    #: How many secrets open it: two while it is rotated.
    secrets: int = 1


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whom a request is from."""

    tenant: str
    scopes: frozenset[str]
    limits: Limits = ANYTHING
    #: None for a key of the settings, and without a key.
    key_id: str | None = None
    #: When its secret ends, in milliseconds since 1970; None: never.
    ends_at_ms: int | None = None

    @property
    def sees(self) -> str:
        """The tenant whose things it sees, or `ALL_TENANTS`."""
        return ALL_TENANTS if self.scopes & OPERATORS else self.tenant


#: A key of the settings, and everybody where no key is asked for.
OPERATOR = Caller(tenant=DEFAULT_TENANT, scopes=frozenset(SCOPES))
