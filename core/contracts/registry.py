"""The HTTP contracts by their names: what of a job's webhooks is a contract's own, its bodies and further headers.

A job's row and a delivery's row hold the name. Whoever adds a contract adds it here; the ledger and the sender of
webhooks ask this table and know no contract themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from core.contracts.comfy_v2_events import EventView, event_body
from core.contracts.generate import GenerateEventView, signature_headers, webhook_body
from core.links import LinkSigner
from core.records.job import ContractName, Job

CONTRACT_V2: Final = "v2"
CONTRACT_GENERATE: Final = "generate"


class WebhookBody(Protocol):
    """Makes the body of one webhook, of a bounded size."""

    def __call__(
        self, job: Job, event: str, /, *, seq: int, at_ms: int, signer: LinkSigner | None = None
    ) -> EventView | GenerateEventView:
        """Return the body that tells of an event of a job. Parameters as of `event_body`."""


class SignatureHeaders(Protocol):
    """Makes the headers that a contract has beside those of Standard Webhooks."""

    def __call__(self, body: bytes, secret: str, /) -> dict[str, str]:
        """Return the headers that sign a body with a webhook's first secret."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What differs between the webhooks of two contracts."""

    name: ContractName
    webhook_body: WebhookBody
    signature_headers: SignatureHeaders


def _state_body(job: Job, _event: str, *, seq: int, at_ms: int, signer: LinkSigner | None = None) -> GenerateEventView:
    # Tells how the job is, as its result does, and not what happened: which event it was stands in a header.
    del seq, at_ms
    return webhook_body(job, signer=signer)


def _no_headers(_body: bytes, _secret: str) -> dict[str, str]:
    return {}


CONTRACTS: Mapping[str, Contract] = {
    contract.name: contract
    for contract in (
        Contract(name=CONTRACT_V2, webhook_body=event_body, signature_headers=_no_headers),
        Contract(name=CONTRACT_GENERATE, webhook_body=_state_body, signature_headers=signature_headers),
    )
}


def contract_of(name: str) -> Contract:
    """Return the contract of a name that stands in the ledger; Comfy API v2 for one that another release wrote."""
    return CONTRACTS.get(name, CONTRACTS[CONTRACT_V2])
