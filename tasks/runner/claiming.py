"""Claims as they are seen from outside: how long a job waited, and how long the decision took."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from core import log_fields
from core.clock import now_ms
from core.ledger.claims import Claim, Claims
from core.tracing import spans
from tasks.runner.claimed.run import Run

Method = TypeVar("Method", bound=Callable[..., Any])


def claim_next(claims: Claims, instance: str, *, named: str | None, ahead: bool, worker: str | None) -> Claim | None:
    """Claim as `Claims.claim` does, and record what is known of the job until then."""
    began_ms = now_ms() if spans.are_recorded() else 0
    claim = claims.claim(instance, named=named, ahead=ahead, worker=worker)
    if claim is None or not began_ms:
        return claim
    told: dict[str, Any] = {"job_id": claim.job_id, "attempt": claim.attempt, "tenant": claim.tenant}
    if claim.attempt == 1:
        # From when a job waits that was given back, nobody keeps.
        spans.record("wait", claim.traceparent, start_ms=claim.created_at_ms, end_ms=began_ms, **told)
    told |= {"instance": instance, "ahead": ahead}
    spans.record("claim", claim.traceparent, start_ms=began_ms, end_ms=now_ms(), **told)
    return claim


def about_run(method: Method) -> Method:
    """Have all that a method logs say which run it is about, its first argument."""

    @functools.wraps(method)
    def with_fields(self: Any, run: Run, *rest: Any) -> Any:
        with log_fields.about(**run.claim.log_fields):
            return method(self, run, *rest)

    return with_fields  # type: ignore[return-value]  # of the same shape
