"""HTTP sessions that connect only where a policy permits.

The guard stands at the one place where a connection is made: the name is resolved once, every address it has is judged,
and the connection goes to one of those addresses. A name that changes between a check and its use cannot pass, and TLS
is verified against the name as always.

A name with even one forbidden address is refused as a whole. To pick the others would hide what is either an attack or
a mistake, and whether a job succeeds would depend on the order of a DNS answer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import ClassVar, cast

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ProtocolError

from core.errors import AddressRefused
from core.outbound import lookup
from core.outbound.deadline import Deadline
from core.outbound.networks import Policy

#: Of a name with more addresses, the first ones are tried.
MAX_ADDRESSES = 4
#: A connection is not kept for longer: names move, and bundles of authorities are replaced.
KEPT_S = 60.0
#: All that a client hears: which network it was would tell about ours.
REFUSED = "refused: private address"

Watch = Callable[[socket.socket], None]


class GuardedSession(requests.Session):
    """A requests session for one exchange with a client's URL.

    It follows no redirects, and uses no proxies and no .netrc of the machine. Beside what requests raises, its calls
    raise AddressRefused. `deadline.is_over` tells an answer that was cut from one that ended, so ask it after reading.
    """

    def __init__(self, policy: Policy, *, limit_s: float) -> None:
        """Parameters: limit_s - seconds from now after which the exchange is cut, wherever it is."""
        super().__init__()
        self.trust_env = False
        self.deadline = Deadline(limit_s)
        for scheme in ("http://", "https://"):
            self.mount(scheme, GuardedAdapter(policy, self.deadline.watch))

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - requests' signature
        """Return None: a redirect is followed only after its URL was judged."""
        return None

    def close(self) -> None:
        self.deadline.close()
        super().close()


class KeptConnection:
    """A guarded connection to one host, for posts one after the other while the host keeps it open. For one thread.

    It follows no redirects, uses no proxies of the machine, and keeps nothing of one exchange for the next, such as
    cookies. Beside the errors of urllib3, its calls raise AddressRefused.
    """

    def __init__(self, policy: Policy) -> None:
        self.deadline = Deadline()
        #: How many connections were made.
        self._made = 0
        self._made_at_s = 0.0
        self._pools = PoolManager(num_pools=1, maxsize=1, cert_reqs="CERT_REQUIRED", ca_certs=DEFAULT_CA_BUNDLE_PATH)
        guard_pools(self._pools, policy, self._watch)

    @contextmanager
    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, limit_s: float, connect_timeout_s: float
    ) -> Iterator[BaseHTTPResponse]:
        """Post, and yield the answer; the connection is kept if the answer was read to its end and permits it.

        Parameters:
          limit_s: seconds after which the exchange is cut, wherever it is, what is done within the block included.
          connect_timeout_s: for connecting, within that.
        """
        if time.monotonic() - self._made_at_s > KEPT_S:
            self.drop()
        self.deadline.begin(limit_s)
        is_kept = False
        try:
            answer = self._answer(url, body, headers, connect_timeout_s)
            try:
                yield answer
                is_kept = answer.closed and not self.deadline.is_over and _keeps(answer)
            finally:
                if not is_kept:
                    answer.close()
        finally:
            self.deadline.rest()
            if not is_kept:
                self.drop()

    def drop(self) -> None:
        """Make a new connection for the next post."""
        self._pools.clear()
        # Its copy would keep the connection open.
        self.deadline.unwatch()

    def close(self) -> None:
        self.drop()
        self.deadline.close()

    def _answer(self, url: str, body: bytes, headers: Mapping[str, str], connect_timeout_s: float) -> BaseHTTPResponse:
        made = self._made
        try:
            return self._post(url, body, headers, connect_timeout_s)
        except ProtocolError as exc:
            # A host may close a kept connection just as it is used again, which is no failure of either side. It may
            # also have read the post: whoever sends a post that must not be taken for two marks it with an id.
            is_unanswered = isinstance(exc.args[-1], ConnectionError)
            if self._made > made or not is_unanswered or self.deadline.is_over:
                raise
            self.drop()
            return self._post(url, body, headers, connect_timeout_s)

    def _post(self, url: str, body: bytes, headers: Mapping[str, str], connect_timeout_s: float) -> BaseHTTPResponse:
        left_s = self.deadline.left_s
        return self._pools.urlopen(
            "POST",
            url,
            body=body,
            headers=headers,
            timeout=Timeout(connect=min(connect_timeout_s, left_s), read=left_s),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def _watch(self, connected: socket.socket) -> None:
        # There is one connection at a time: what was watched before is not used any more.
        self.deadline.unwatch()
        self.deadline.watch(connected)
        self._made, self._made_at_s = self._made + 1, time.monotonic()


class GuardedAdapter(HTTPAdapter):
    """The transport of requests, guarded."""

    def __init__(self, policy: Policy, watch: Watch | None = None) -> None:
        super().__init__()
        guard_pools(self.poolmanager, policy, watch)


def guard_pools(manager: PoolManager, policy: Policy, watch: Watch | None = None) -> None:
    """Have the pools of a manager connect only where the policy permits.

    Parameters:
      watch: is given each socket as soon as it is connected.
    """
    guard = _Guard(policy=policy, watch=watch)
    manager.clear()
    manager.pool_classes_by_scheme = {
        scheme: _guarded(pool, guard) for scheme, pool in manager.pool_classes_by_scheme.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Guard:
    policy: Policy
    watch: Watch | None


class _Answer(HTTPResponse):
    """Raises a ConnectionError only where not a byte of an answer has come."""

    def begin(self) -> None:
        has_begun = bool(self.fp.peek(1))
        try:
            super().begin()
        except ConnectionError as exc:
            if has_begun:
                raise HTTPException("The answer broke off.") from exc
            raise


class _GuardedConnection(HTTPConnection):
    """What every guarded connection has in common; stands before the class of an HTTP library."""

    guard: ClassVar[_Guard]
    response_class = _Answer
    #: What an HTTPS connection trusts beside the file that its library names.
    ca_cert_data: str | bytes | None

    def _new_conn(self) -> socket.socket:
        if self.guard.policy.ca_bundle is not None:
            # Each time anew: bundles are replaced while we run.
            self.ca_cert_data = self.guard.policy.ca_bundle.read_text(encoding="utf-8")
        name, timeout_s = self._dns_host, self.timeout
        began_s = time.monotonic()
        addresses = self._permitted_addresses(timeout_s)
        try:
            for position, address in enumerate(addresses):
                self._dns_host = address
                if timeout_s is not None:
                    # The rest of the time is for all of them, so that one that is silent does not use it up.
                    left_s = timeout_s - (time.monotonic() - began_s)
                    self.timeout = max(left_s, 0.001) / (len(addresses) - position)
                try:
                    connected = super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError):
                    if position == len(addresses) - 1:
                        raise
                else:
                    break
        finally:
            self._dns_host, self.timeout = name, timeout_s
        connected.settimeout(timeout_s)
        if self.guard.watch is not None:
            self.guard.watch(connected)
        return connected

    def _permitted_addresses(self, timeout_s: float | None) -> list[str]:
        try:
            addresses = lookup.addresses(self._dns_host, timeout_s)
        except (socket.gaierror, UnicodeError) as exc:
            raise NameResolutionError(self.host, self, socket.gaierror(str(exc))) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, "The name was not resolved in time.") from exc
        if not all(self.guard.policy.permits(address) for address in addresses):
            raise AddressRefused(REFUSED)
        return addresses[:MAX_ADDRESSES]


def _keeps(answer: BaseHTTPResponse) -> bool:
    """Return whether a host says that it keeps the connection: after HTTP/1.1, where it does not say otherwise."""
    return answer.version >= 11 and "close" not in answer.headers.get("Connection", "").lower()


def _guarded(pool: type[HTTPConnectionPool], guard: _Guard) -> type[HTTPConnectionPool]:
    connection = type("GuardedConnection", (_GuardedConnection, cast(type, pool.ConnectionCls)), {"guard": guard})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})
