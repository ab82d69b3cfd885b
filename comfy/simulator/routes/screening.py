"""Stands between requests and handlers: foreign origins, bodies too large, rejections ordered as faults."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

from comfy.simulator.machine.machine import Machine

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def screen(machine: Machine) -> list[Middleware]:
    """The middlewares of the server."""

    @web.middleware
    async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        if machine.options.release.refuses_cross_site and request.headers.get("Sec-Fetch-Site") == "cross-site":
            return web.Response(status=403)
        if _is_foreign(request):
            return web.Response(status=403)
        return web.Response() if request.method == "OPTIONS" else await handler(request)

    @web.middleware
    async def allow_cors(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = web.Response() if request.method == "OPTIONS" else await handler(request)
        response.headers["Access-Control-Allow-Origin"] = machine.options.cors_origin or "*"
        response.headers["Access-Control-Allow-Methods"] = "POST, GET, DELETE, PUT, OPTIONS, PATCH"
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Authorization"
        response.headers["Access-Control-Allow-Credentials"] = "true"
        return response

    @web.middleware
    async def reject_on_order(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
            if machine.faults.take("reject_413") is not None:
                raise web.HTTPRequestEntityTooLarge(max_size=machine.options.max_body_bytes)
            if machine.faults.take("reject_500") is not None:
                raise RuntimeError("SIMULATED fault: POST /prompt answers 500")
        return await handler(request)

    @web.middleware
    async def word_too_large(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPRequestEntityTooLarge as exc:
            # aiohttp 3.14 no longer says how much it had read; the releases ComfyUI shipped with did.
            limit, read_bytes = machine.options.max_body_bytes, request.content.total_bytes
            exc.text = f"Maximum request body size {limit} exceeded, actual body size {max(read_bytes, limit + 1)}"
            raise

    return [word_too_large, allow_cors if machine.options.cors_origin else check_origin, reject_on_order]


def _is_foreign(request: web.Request) -> bool:
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if not host or not origin:
        return False
    own, other = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
    if not own.hostname or not other.hostname or not _is_loopback(own.hostname):
        return False
    ports_differ = own.port is not None and other.port is not None and own.port != other.port
    return own.hostname != other.hostname or ports_differ


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
