"""Guarded outbound HTTP: all that is sent to a URL that a client named goes through here.

urls      check_url: a URL judged without connecting (api)
networks  Policy, UNRESTRICTED: which addresses are permitted
lookup    host names within a time limit
sessions  GuardedSession: requests (tasks.webhooks, fetch)
s3        guard_s3_client: boto3 (core.buckets)
fetch     a file from a URL, within limits (api)
deadline  a limit on a whole exchange (sessions)
own_command  commands of the operator, without our secrets (tasks.reconciling, core.rollouts)
retry_after  when to ask a busy server again (tasks.webhooks, comfy.model_files)

What loads an HTTP library is not imported here: the API judges URLs, and is loaded before gevent patches the standard
library, which must not happen to urllib3.
"""

from __future__ import annotations

from core.outbound.networks import UNRESTRICTED, Policy
from core.outbound.urls import check_url

__all__ = ["UNRESTRICTED", "Policy", "check_url"]
