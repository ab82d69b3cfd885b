"""Where the events of a job are to be told, as the ledger keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from core.texts.stored_json import known_fields

#: Whose webhook it is: the request's own, with its own secret, or the operator's.
WebhookOrigin: TypeAlias = Literal["request", "environment"]
REQUEST: Final = "request"
ENVIRONMENT: Final = "environment"
#: How long a try may take where nothing says so; every version so far has written it down.
TRY_TIMEOUT_S = 30.0
#: The secrets a webhook comes with that does not say.
ONE_SECRET = ("webhook_secret",)


@dataclass(frozen=True, kw_only=True)
class WebhookTarget:
    """The receiver of a job's events, and what it wants of them; never a secret."""

    #: Up to its question mark: the query is among the job's secrets. Whole in jobs of earlier versions.
    url: str
    #: Names of events; empty means those that everybody gets.
    events: tuple[str, ...] = ()
    #: Returned in each event as they are.
    extra_params: dict[str, Any] = field(default_factory=dict)
    #: Of one try.
    timeout_s: float = TRY_TIMEOUT_S
    #: Scheme and host for links in the events.
    base_url: str = ""
    origin: WebhookOrigin = REQUEST
    #: Names of the secrets that have to come again, once they are wiped, for an event to be sent again.
    sealed: tuple[str, ...] = ONE_SECRET

    def to_json(self) -> dict[str, Any]:
        """Return the target as a job's row keeps it; `events` and `sealed` only where they say something."""
        value = asdict(self)
        if not self.events:
            del value["events"]
        if self.sealed == ONE_SECRET:
            del value["sealed"]
        return {name: list(inner) if isinstance(inner, tuple) else inner for name, inner in value.items()}

    @classmethod
    def from_json(cls, value: Any) -> WebhookTarget:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - it is no object."""
        given = {"url": ""} | known_fields(cls, value)
        lists = {name: tuple(given[name] or ()) for name in ("events", "sealed") if name in given}
        return cls(**{**given, **lists})
