"""Who may ask, and for what: API keys and their scopes, and no pages of other sites in somebody's browser."""

from __future__ import annotations

from flask import Flask, current_app, request

from api.http.caller import set_caller
from api.http.cross_origin import CrossOrigin
from api.http.errors import BadParameter, ForbiddenOrigin, LinkRefused, Misdirected, MissingScope
from api.http.hosts import Hosts, host_of, is_loopback
from api.http.key_ring import KeyRing
from api.http.request_limits import RequestLimits
from api.http.scopes import ANY_KEY, scope_of
from api.http.signed_links import comes_by_link
from core.errors import LedgerUnavailable, Unauthorized
from core.ledger.access.sessions import BrowserSessions
from core.links import LinkSigner
from core.records.access import ALL_TENANTS, OPERATOR, OPERATORS, Caller
from core.settings import Settings

#: Asked by load balancers, supervisors and receivers of webhooks, which have no key, or the same for everybody.
#: `/ready` says more to operators.
OPEN_PATHS = frozenset(
    {"/", "/health", "/ready", "/api/v2/health", "/api/v2/session", "/openapi.json", "/docs", "/webhooks/public-key"}
)
#: The console's files: the same for everybody.
OPEN_PREFIX = "/console/"
#: Below it ComfyUI's own protocol is spoken, and a key may come as a password, which is all that browsers can send with
#: pictures and websockets.
COMFYUI_PREFIX = "/comfyui"
#: Holds the session of a browser whose reader has signed in; no script can read it.
SESSION_COOKIE = "comfyline_session"
#: A page for readers that says the same to all of them, so that other sites may lead there.
DOCS = "/docs"


def is_open(path: str) -> bool:
    """Return whether a path, or a rule of the router, is for everybody."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIX)


class Guard:
    """Checks every request before its view runs, and finds out whom it is from.

    Parameters:
      signer: whose links open the files they name, from any page and without a key.
      requests: counts those of tenants that may not make as many as they like.
      sessions: open what browsers bring whose readers have signed in.
    """

    def __init__(
        self,
        settings: Settings,
        signer: LinkSigner,
        ring: KeyRing,
        requests: RequestLimits,
        sessions: BrowserSessions,
    ) -> None:
        self._ring = ring
        self._sessions = sessions
        self._requests = requests
        self._hosts = Hosts(settings)
        self._signer = signer
        self._pages = CrossOrigin(settings)

    def register(self, app: Flask) -> None:
        """Run before every request of the app."""
        app.before_request(self._check)
        self._pages.register(app)

    def asks_for_keys(self) -> bool:
        """Return whether requests need a key, as far as that is known."""
        return not self._ring.was_open()

    def is_operator(self) -> bool:
        """Return whether this request may know what is the operator's: it has such a key, or nobody needs one."""
        try:
            caller = self._presented()
            return caller.sees == ALL_TENANTS if caller is not None else self._ring.is_open()
        except LedgerUnavailable:
            return self._ring.was_open()

    def caller(self) -> Caller | None:
        """Return whom this request is from, on routes that are open to all; None: it has no key, and needs one.

        Raises: LedgerUnavailable.
        """
        return self._presented() or (OPERATOR if self._ring.is_open() else None)

    def has_key(self) -> bool:
        """Return whether this request carries one of the keys; never true of an open server."""
        return self._presented() is not None

    def require_own_origin(self) -> None:
        """Refuse whatever page is neither ours nor let in, also where keys are asked for. Raises ForbiddenOrigin."""
        origin = request.headers.get("Origin")
        if origin is None or self._pages.lets_in(origin):
            return
        if not self._hosts.is_own_page(origin, request.headers.get("Host", "")):
            raise ForbiddenOrigin("Requests from pages of other sites are refused.")

    def _check(self) -> None:
        # Werkzeug gives no host when the header is none; every link we return would be broken.
        if not request.host:
            raise BadParameter("The Host header is missing or malformed.")
        header = request.headers.get("Host")
        # Every browser sends one; some load balancers do not.
        if header is not None and not self._takes_name(header):
            raise Misdirected(
                "This server asks nobody for a key, and does not go by the name in the Host header. Use its own name "
                "or address; its operator can add names in COMFYLINE_ALLOWED_HOSTS, or set keys."
            )
        if self._comes_by_link():
            # To the one file that the link names, whoever owns it.
            set_caller(OPERATOR)
            return
        self._check_origin()
        if request.method == "OPTIONS" or is_open(request.path):
            return
        caller = self.caller()
        if caller is None:
            raise Unauthorized("An API key is needed: Authorization: Bearer <key>, or X-API-Key: <key>.")
        needed = scope_of(current_app.view_functions.get(request.endpoint or ""))
        is_missing = needed != ANY_KEY and needed not in caller.scopes
        limits = self._ring.limits_of(caller.tenant)
        # What operators do is not counted: who set a limit too low can always raise it.
        if limits.max_requests_per_minute is not None and (is_missing or needed not in OPERATORS):
            self._requests.count(caller.tenant, limits.max_requests_per_minute)
        if is_missing:
            raise MissingScope(f"This key does not have the scope {needed}, which this needs.")
        set_caller(caller, limits)

    def _presented(self) -> Caller | None:
        """Whom the key of this request stands for."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # What a gateway before us asks for stands there, but where browsers send the key they were told.
            key = request.headers.get("X-API-Key", "") or (_password() if has_password() else "")
        key = key.strip() or self._key_of_session()
        return self.holder_of(key) if key else None

    def holder_of(self, key: str) -> Caller | None:
        """Return whom a key stands for; None: nobody. Raises LedgerUnavailable."""
        return self._ring.caller(key, request.remote_addr or "")

    def _key_of_session(self) -> str:
        session = request.cookies.get(SESSION_COOKIE, "") if has_session() else ""
        return self._sessions.open(session) or "" if session else ""

    def _takes_name(self, header: str) -> bool:
        return self._hosts.knows(header) or (host_of(header) is not None and self.asks_for_keys())

    def _comes_by_link(self) -> bool:
        try:
            return comes_by_link(self._signer)
        except LinkRefused:
            # A key opens more than any link does, good or not.
            if not self.has_key():
                raise
            return False

    def _check_origin(self) -> None:
        """Refuse pages of other sites, but for those that the operator lets in. Any may lead to our page."""
        if request.path == DOCS and request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate":
            return
        origin, header = request.headers.get("Origin"), request.headers.get("Host", "")
        # What a browser sends by itself is its reader's, whoever's page asks: no page of another site gets in by that.
        is_sent_unasked = has_password() or has_session()
        if self._pages.lets_in(origin) and not is_sent_unasked:
            return
        if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
            raise ForbiddenOrigin("Requests from pages of other sites are refused.")
        if origin is None and has_session() and request.method not in ("GET", "HEAD", "OPTIONS"):
            raise ForbiddenOrigin("A session counts for pages of this server alone, and browsers say whose page it is.")
        # Where keys are asked for, and not on this very machine, programs may name whatever origin they like. A browser
        # sends a password, or a session, by itself, whoever's page asks.
        is_free = not is_loopback(host_of(header) or "") and self.asks_for_keys() and not is_sent_unasked
        if origin is None or is_free:
            return
        if not self._hosts.is_own_page(origin, header):
            raise ForbiddenOrigin("Requests from pages of other sites are refused.")


def has_password() -> bool:
    """Return whether this request carries a key as browsers do, to routes that take it so: as a password."""
    sent = request.authorization
    return request.path.startswith(f"{COMFYUI_PREFIX}/") and sent is not None and sent.type == "basic"


def has_session() -> bool:
    """Return whether the key of this request is that of a session, and no key was sent on purpose."""
    headers = request.headers
    return SESSION_COOKIE in request.cookies and "Authorization" not in headers and "X-API-Key" not in headers


def _password() -> str:
    return (request.authorization.password or "") if request.authorization is not None else ""
