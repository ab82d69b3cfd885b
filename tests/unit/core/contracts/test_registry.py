"""The contracts by name: which body and which headers the webhooks of each have."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from core.contracts.comfy_v2_events import event_body
from core.contracts.generate import webhook_body
from core.contracts.registry import CONTRACT_GENERATE, CONTRACT_V2, CONTRACTS, contract_of
from core.records.webhook_events import COMPLETED
from tests.makers import job_record


def test_names_are_those_in_the_ledger() -> None:
    assert list(CONTRACTS) == ["v2", "generate"]
    assert all(contract.name == name for name, contract in CONTRACTS.items())


@pytest.mark.parametrize("name", [CONTRACT_V2, "of-a-newer-release"])
def test_v2_tells_of_events_and_signs_by_the_standard_alone(name: str) -> None:
    contract = contract_of(name)
    assert contract.webhook_body(job_record(), COMPLETED, seq=4, at_ms=5) == event_body(
        job_record(), COMPLETED, seq=4, at_ms=5
    )
    assert contract.signature_headers(b"{}", "secret") == {}


def test_generate_tells_of_the_result_and_signs_the_body_alone_too() -> None:
    contract = contract_of(CONTRACT_GENERATE)
    assert contract.webhook_body(job_record(), COMPLETED, seq=4, at_ms=5) == webhook_body(job_record())
    expected = hmac.new(b"whsec_text", b"{}", hashlib.sha256).hexdigest()
    assert contract.signature_headers(b"{}", "whsec_text") == {"X-Webhook-Signature": f"sha256={expected}"}
