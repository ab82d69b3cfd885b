"""A boto3 client that connects only where a policy permits."""

from __future__ import annotations

from typing import Any

from botocore.awsrequest import AWSPreparedRequest
from botocore.client import BaseClient
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session

from core.errors import AddressRefused
from core.outbound.networks import Policy
from core.outbound.sessions import Watch, guard_pools


def guard_s3_client(client: BaseClient, policy: Policy, watch: Watch | None = None) -> None:
    """Guard a client. Call it once, after making it.

    Its calls then raise AddressRefused too, without a retry. Timeouts and pool size are those of the client's `Config`;
    proxies of the environment are not used; certificates are verified against the usual authorities.

    Parameters:
      watch: is given each socket as soon as it is connected, for instance `Deadline.watch`.
    """
    # What these have is not all in botocore's stubs.
    config: Any = client.meta.config
    timeouts_s: Any = (config.connect_timeout, config.read_timeout)
    session: Any = URLLib3Session(timeout=timeouts_s, max_pool_connections=config.max_pool_connections)
    guard_pools(session._manager, policy, watch)

    def send(request: AWSPreparedRequest, **_: Any) -> Any:
        try:
            return session.send(request)
        except HTTPClientError as exc:
            refused = exc.kwargs.get("error")
            if isinstance(refused, AddressRefused):
                # As what it is it is not tried again.
                raise refused from exc
            raise

    # What a handler of this event returns is taken for the answer: the client's own session stays unused.
    client.meta.events.register_first("before-send", send)
