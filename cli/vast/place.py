"""What the platform says of a worker in its environment: who it is, where it is reached, whom it reports to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import ConfigurationError

#: Where reports go unless the environment names others.
USUAL_REPORT_ADDRESS = "https://run.vast.ai"
#: Listed among the report addresses, and takes no word on single requests.
NO_REQUESTS_ADDRESS = "https://cloud.vast.ai/api/v0"
#: The certificate that the platform puts into each container.
CERTIFICATE, CERTIFICATE_KEY = "/etc/instance.crt", "/etc/instance.key"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One worker as the platform knows it."""

    #: CONTAINER_ID
    id: int
    #: MASTER_TOKEN: proves who reports. Shown nowhere.
    token: str = field(repr=False)
    #: REPORT_ADDR: each is tried until one takes a report.
    report_addresses: tuple[str, ...]
    #: WORKER_PORT: where it listens.
    port: int
    #: Where the platform's clients reach it.
    url: str
    has_tls: bool

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> Place:
        """Read it. Raises ConfigurationError: the name of what is missing or malformed."""
        port = _number(variables, "WORKER_PORT")
        public_port = _number(variables, f"VAST_TCP_PORT_{port}")
        has_tls = variables.get("USE_SSL", "false").lower() == "true"
        addresses = variables.get("REPORT_ADDR", "").split(",")
        found = tuple(address.strip().rstrip("/") for address in addresses if address.strip())
        return cls(
            id=_number(variables, "CONTAINER_ID"),
            token=variables.get("MASTER_TOKEN", ""),
            report_addresses=found or (USUAL_REPORT_ADDRESS,),
            port=port,
            url=f"http{'s' if has_tls else ''}://{_text(variables, 'PUBLIC_IPADDR')}:{public_port}",
            has_tls=has_tls,
        )


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{name} is not set: Vast.ai sets it in each container of a serverless endpoint.")
    return value


def _number(variables: Mapping[str, str], name: str) -> int:
    text = _text(variables, name)
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(f"{name} must be a whole number, as Vast.ai sets it.")
    return int(text)
