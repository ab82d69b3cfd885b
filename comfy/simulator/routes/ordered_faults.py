"""Serves `/simulator/faults`: order faults, list them, forget them. ComfyUI has no such route."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import Any

from aiohttp import web

from comfy.simulator.machine.faults import KINDS
from comfy.simulator.machine.machine import Machine


class FaultRoutes:
    """The handlers; they answer this machine only."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> list[web.RouteDef]:
        path = "/simulator/faults"
        return [web.get(path, self.listing), web.post(path, self.order), web.delete(path, self.clear)]

    async def listing(self, request: web.Request) -> web.Response:
        require_loopback(request)
        known = {name: {"about": kind.about, "options": dict(kind.options)} for name, kind in KINDS.items()}
        return web.json_response({"active": self._machine.faults.listing(), "known": known})

    async def order(self, request: web.Request) -> web.Response:
        """Body: `{"name": {option: value}, ...}`; all or none are armed."""
        require_loopback(request)
        body = await request.json()
        try:
            for name, options in body.items():
                arm(self._machine, name, self._machine.faults.order(name, options or {}))
        except (AttributeError, TypeError, ValueError) as exc:
            return web.json_response({"error": str(exc)}, status=400)
        return web.json_response({"active": self._machine.faults.listing()})

    async def clear(self, request: web.Request) -> web.Response:
        """All of them, or `?name=` one."""
        require_loopback(request)
        self._machine.faults.clear(request.query.get("name"))
        return web.json_response({"active": self._machine.faults.listing()})


def arm(machine: Machine, name: str, options: dict[str, Any]) -> None:
    """Set the clock for faults that wait for a moment rather than for something to happen."""
    loop = asyncio.get_running_loop()
    after_s = float(options["after_s"])
    if name == "slow_loop":
        loop.call_later(after_s, _block_loop, machine)
    elif name == "exit" and options["step"] is None and after_s > 0:
        loop.call_later(after_s, _exit, machine)


def _block_loop(machine: Machine) -> None:
    order = machine.faults.take("slow_loop")
    if order is not None:
        # Blocking the event loop is the very point: HTTP and websockets stop answering.
        time.sleep(float(order["seconds"]))


def _exit(machine: Machine) -> None:
    order = machine.faults.take("exit")
    if order is not None:
        machine.end_process(int(order["code"]))


def require_loopback(request: web.Request) -> None:
    """Refuse other machines: for what ComfyUI does not have. Raises HTTPForbidden."""
    if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:
        raise web.HTTPForbidden
