"""Requests of tenants in a minute: counted before their view runs, and told in the headers of every answer.

The headers are those of draft-ietf-httpapi-ratelimit-headers. They speak of requests alone: the draft has no unit
for the other limits.
"""

from __future__ import annotations

import math

from flask import Flask, Response, g

from api.http.request_counts import WINDOW_S, RequestCounts, Standing
from core.errors import RequestLimitReached
from core.records.tenant_limits import allows_nothing
from core.settings import Settings

#: The name of the policy.
POLICY = "requests"


class RequestLimits:
    """Counts the requests of one process, for its guard."""

    def __init__(self, settings: Settings) -> None:
        self.counts = RequestCounts(settings)

    def register(self, app: Flask) -> None:
        """Have the answers of the app tell their callers how they stand."""
        app.after_request(_tell)

    def count(self, tenant: str, limit: int) -> None:
        """Count this request of a tenant that may make so many in a minute. Raises RequestLimitReached."""
        standing = self.counts.take(tenant, limit)
        g.standing = standing
        if not standing.is_allowed:
            wait_s = None if math.isinf(standing.more_in_s) else max(1, math.ceil(standing.more_in_s))
            raise RequestLimitReached(
                f"This tenant may make {limit} requests in a minute, and has made them. Retry-After says when it may "
                "go on."
                if limit
                else allows_nothing("max_requests_per_minute", "make no requests"),
                "max_requests_per_minute",
                limit,
                limit - standing.left,
                wait_s,
            )


def _tell(response: Response) -> Response:
    standing: Standing | None = g.get("standing")
    if standing is not None:
        response.headers["RateLimit-Policy"] = f'"{POLICY}";q={standing.limit};w={WINDOW_S}'
        # Whole seconds; of a tenant that may make no requests there are never more.
        more_in = "" if math.isinf(standing.more_in_s) else f";t={math.ceil(standing.more_in_s)}"
        response.headers["RateLimit"] = f'"{POLICY}";r={standing.left}{more_in}'
    return response
