"""Tells the platform how a worker stands: when something has changed, at most once a second, and every ten seconds."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time

import aiohttp

from cli.vast.load import Load
from cli.vast.place import NO_REQUESTS_ADDRESS, Place
from cli.vast.signatures import Signatures, read_key

log = logging.getLogger("comfyline.vast")

LOOK_S = 1.0
LONGEST_S = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=10)
GIB = 2**30


class Reporter:
    """Reports one worker's load."""

    def __init__(self, place: Place, load: Load, session: aiohttp.ClientSession) -> None:
        self._place = place
        self._load = load
        self._session = session
        self._reported_at_s = float("-inf")
        self._disk_bytes = shutil.disk_usage("/").used
        self._failed = ""

    async def run(self) -> None:
        """Report until it is cancelled. What nobody took is told at the next look."""
        while True:
            if self._load.has_news or time.monotonic() - self._reported_at_s > LONGEST_S:
                await self._report()
            await self._tell_ends()
            await asyncio.sleep(LOOK_S)

    async def signatures(self) -> Signatures:
        """Fetch the platform's key, as often as it takes."""
        while True:
            for address in self._place.report_addresses:
                try:
                    async with self._session.get(f"{address}/pubkey/", timeout=TIMEOUT) as answer:
                        answer.raise_for_status()
                        return Signatures(read_key(await answer.text()))
                except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as exc:
                    self._say(f"{address} gave no public key ({type(exc).__name__})")
            await asyncio.sleep(LOOK_S)

    async def _report(self) -> None:
        used = shutil.disk_usage("/").used
        body = self._load.status(self._place, disk_gb=(used - self._disk_bytes) / GIB)
        # What comes while it is sent belongs to the next.
        counted = self._load.begin_report()
        for address in self._place.report_addresses:
            if await self._post(f"{address}/worker_status/", body):
                self._reported_at_s, self._disk_bytes = time.monotonic(), used
                return
        self._load.not_reported(counted)

    async def _tell_ends(self) -> None:
        ended = self._load.ended()
        if not ended:
            return
        for address in self._place.report_addresses:
            if address == NO_REQUESTS_ADDRESS:
                continue
            bodies = [
                {
                    "worker_id": self._place.id,
                    "mtoken": self._place.token,
                    "request_idxs": [index for index, well in ended if well is is_well],
                    "success": is_well,
                }
                for is_well in (True, False)
            ]
            if all([await self._post(f"{address}/delete_requests/", body) for body in bodies if body["request_idxs"]]):
                self._load.told(len(ended))
                return

    async def _post(self, url: str, body: dict[str, object]) -> bool:
        try:
            async with self._session.post(url, json=body, timeout=TIMEOUT) as answer:
                answer.raise_for_status()
        except (aiohttp.ClientError, asyncio.TimeoutError) as exc:
            self._say(f"{url} took no report ({type(exc).__name__})")
            return False
        self._failed = ""
        return True

    def _say(self, problem: str) -> None:
        """Log a problem once, until something goes well."""
        if problem != self._failed:
            log.warning("%s. It is tried again.", problem)
        self._failed = problem
