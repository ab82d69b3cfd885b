"""Takes the platform's requests in, passes what they hold on to the Comfyline server, and its answer back."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from cli.vast.benchmark import Benchmark, BenchmarkFailed
from cli.vast.load import Load, Taken, workload_of
from cli.vast.place import CERTIFICATE, CERTIFICATE_KEY, Place
from cli.vast.reports import Reporter
from cli.vast.signatures import Signatures, missing_of

log = logging.getLogger("comfyline.vast")

#: Routes of the server that the platform's clients may name. One that waits for its job keeps the load true.
ROUTES = ("/generate/sync", "/generate/stream", "/generate", "/prompt", "/custom_workflow", "/custom-workflow")
#: Seconds between looks at whether the server can run jobs.
LOOK_S = 5.0
READY_TIMEOUT = aiohttp.ClientTimeout(total=10)
#: A client that has hung up.
GONE = 499
#: Of the server's answer; the others are between it and us.
PASSED_HEADERS = ("Content-Type", "Retry-After")


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker works."""

    api_url: str
    api_key: str = field(repr=False)
    max_body_bytes: int
    #: Requests are refused while the next one would wait for longer, in seconds.
    max_wait_s: float
    #: None: `max_perf` is said.
    benchmark: Benchmark | None
    max_perf: float = 0.0


class VastWorker:
    """One worker; its parts live in one event loop."""

    def __init__(self, place: Place, options: WorkerOptions) -> None:
        self.load = Load()
        self._place = place
        self._options = options
        self._signatures: Signatures | None = None
        self._began_s = time.monotonic()

    async def run(self, is_over: Callable[[], Awaitable[object]]) -> None:
        """Serve until `is_over` returns."""
        key = self._options.api_key
        own = {"Authorization": f"Bearer {key}"} if key else {}
        unlimited = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with (
            aiohttp.ClientSession(headers=own, timeout=unlimited, auto_decompress=False) as to_api,
            aiohttp.ClientSession() as to_platform,
        ):
            reporter = Reporter(self._place, self.load, to_platform)
            # A client that hangs up ends its handler, and so the request to the server, which cancels the job.
            runner = web.AppRunner(self.app(to_api), handler_cancellation=True, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, port=self._place.port, ssl_context=self._tls()).start()
            tasks = [asyncio.create_task(each) for each in (reporter.run(), self._admit(reporter), self._watch(to_api))]
            try:
                await is_over()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await runner.cleanup()

    def app(self, to_api: aiohttp.ClientSession) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=self._options.max_body_bytes)

        async def pong(_request: web.Request) -> web.Response:
            return web.Response(text="pong")

        async def take(request: web.Request) -> web.StreamResponse:
            return await self._take(request, to_api)

        app.router.add_get("/ping", pong)
        for route in ROUTES:
            app.router.add_post(route, take)
        return app

    async def _take(self, request: web.Request, to_api: aiohttp.ClientSession) -> web.StreamResponse:
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            return web.json_response({"error": "invalid JSON"}, status=422)
        wrong = missing_of(body.get("auth_data") if isinstance(body, dict) else None)
        payload = body.get("payload") if isinstance(body, dict) else None
        if wrong or not isinstance(payload, dict):
            problem: dict[str, Any] = {"auth_data": wrong} if wrong else {}
            return web.json_response(
                problem | ({} if isinstance(payload, dict) else {"payload": "field missing"}), status=422
            )
        auth_data = body["auth_data"]
        if self._signatures is None:
            return web.json_response({"error": "the platform's public key is not there yet"}, status=503)
        if not self._signatures.admit(auth_data):
            return web.json_response({"error": "not signed by the platform, or not for the first time"}, status=401)
        taken = Taken(request_idx=auth_data["request_idx"], reqnum=auth_data["reqnum"], workload=workload_of(payload))
        if self.load.wait_s > self._options.max_wait_s:
            self.load.refuse(taken)
            return web.json_response({"error": "too much waits here already"}, status=429)
        return await self._pass_on(request, payload, taken, to_api)

    async def _pass_on(
        self, request: web.Request, payload: dict[str, Any], taken: Taken, to_api: aiohttp.ClientSession
    ) -> web.StreamResponse:
        self.load.begin(taken)
        is_well = was_left = False
        answer: web.StreamResponse | None = None
        try:
            async with to_api.post(f"{self._options.api_url}{request.path}", json=payload) as found:
                headers = {name: found.headers[name] for name in PASSED_HEADERS if name in found.headers}
                answer = web.StreamResponse(status=found.status, headers=headers)
                await answer.prepare(request)
                async for piece in found.content.iter_any():
                    await answer.write(piece)
                await answer.write_eof()
                is_well = found.status < 500
                return answer
        except asyncio.CancelledError:
            was_left = True
            raise
        except (ConnectionResetError, aiohttp.ClientConnectionResetError):
            was_left = True
            return web.Response(status=GONE)
        except aiohttp.ClientError as exc:
            log.warning("request %d: the server did not answer (%s)", taken.request_idx, type(exc).__name__)
            if answer is not None and request.transport is not None:
                # It has begun, and its client has to see that it is not whole: another answer would stand within it.
                request.transport.abort()
                return answer
            return web.json_response({"error": "the server does not answer"}, status=502)
        finally:
            self.load.end(taken, is_well=is_well, was_left=was_left)

    async def _admit(self, reporter: Reporter) -> None:
        self._signatures = await reporter.signatures()

    async def _watch(self, to_api: aiohttp.ClientSession) -> None:
        """Find out what the server can do, and say when it can do nothing."""
        while True:
            gpus = await self._healthy_gpus(to_api)
            if self.load.load_time_s is None and gpus:
                await self._measure(to_api, gpus)
            elif self.load.load_time_s is not None:
                self._set_error("" if gpus else "The server has no healthy GPU.")
            await asyncio.sleep(LOOK_S)

    async def _measure(self, to_api: aiohttp.ClientSession, gpus: int) -> None:
        options = self._options
        try:
            found = options.max_perf
            if options.benchmark is not None:
                found = await options.benchmark.max_perf(to_api, options.api_url, gpus)
        except BenchmarkFailed as exc:
            self._set_error(str(exc))
            return
        self.load.max_perf, self.load.load_time_s = found, time.monotonic() - self._began_s
        self._set_error("")
        self.load.has_news = True

    async def _healthy_gpus(self, to_api: aiohttp.ClientSession) -> int:
        try:
            async with to_api.get(f"{self._options.api_url}/ready", timeout=READY_TIMEOUT) as answer:
                said = json.loads(await answer.read())
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            return 0
        listed = said.get("instances") if isinstance(said, dict) else None
        return sum(isinstance(each, dict) and each.get("state") == "healthy" for each in listed or ())

    def _set_error(self, error: str) -> None:
        if error != self.load.error:
            self.load.error, self.load.has_news = error, True
            if error:
                log.warning("%s", error)

    def _tls(self) -> ssl.SSLContext | None:
        if not self._place.has_tls:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(CERTIFICATE, CERTIFICATE_KEY)
        return context
