"""Guarded outbound HTTP: whatever is sent to a URL that a client named goes through here.

    core.outbound            check_url, Policy, UNRESTRICTED       (judging a URL; connects to nothing)
    core.outbound.sessions   GuardedSession                        (requests, connecting where the policy permits)
    core.outbound.s3         guard_s3_client                       (boto3, the same)
    core.outbound.fetch      fetch, Fetched                        (a file from a URL, within limits)

What loads an HTTP library stands in modules of its own: the API judges URLs, and is loaded before gevent patches the
standard library, which must not happen to urllib3.
"""

from __future__ import annotations

from core.outbound.networks import UNRESTRICTED, Policy
from core.outbound.urls import check_url

__all__ = ["UNRESTRICTED", "Policy", "check_url"]
