"""How many units of work a server does in a second: a request of the operator's, run a few times on all its GPUs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from cli.vast.load import workload_of

log = logging.getLogger("comfyline.vast")

ROUTE = "/generate/sync"
RUNS = 3
#: A request may take so long, its load of models included.
LIMIT_S = 3600.0


class BenchmarkFailed(Exception):
    """The benchmark's request did not succeed."""


class Benchmark:
    """A request whose throughput is measured once and kept in a file.

    Parameters:
      payload: the body of `/generate/sync`.
      kept: where the result is kept, for this request alone.
    """

    def __init__(self, payload: Mapping[str, Any], kept: Path) -> None:
        self._payload = payload
        self._kept = kept
        self._digest = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()

    async def max_perf(self, session: aiohttp.ClientSession, api_url: str, gpus: int) -> float:
        """Return units of work in a second, the most of all runs; of an earlier start where that is known.

        Parameters:
          gpus: so many requests are sent at once.
        Raises:
          BenchmarkFailed: a request did not succeed.
        """
        known = self._known(gpus)
        if known is not None:
            return known
        # The first one loads the models.
        await self._run(session, api_url, gpus)
        found = max([await self._run(session, api_url, gpus) for _ in range(RUNS)])
        log.info("benchmark: %.1f units of work in a second on %d GPUs", found, gpus)
        self._kept.write_text(json.dumps({"digest": self._digest, "gpus": gpus, "max_perf": found}), encoding="utf-8")
        return found

    async def _run(self, session: aiohttp.ClientSession, api_url: str, gpus: int) -> float:
        began_s = time.monotonic()
        await asyncio.gather(*(self._send(session, api_url) for _ in range(gpus)))
        return gpus * workload_of(self._payload) / (time.monotonic() - began_s)

    async def _send(self, session: aiohttp.ClientSession, api_url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        try:
            async with session.post(f"{api_url}{ROUTE}", json=self._payload, timeout=timeout) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, asyncio.TimeoutError) as exc:
            raise BenchmarkFailed(f"The server did not answer the benchmark ({type(exc).__name__}).") from exc
        if answer.status != 200:
            raise BenchmarkFailed(f"The server answered the benchmark with {answer.status}: {text[:200]}")

    def _known(self, gpus: int) -> float | None:
        try:
            found = json.loads(self._kept.read_text(encoding="utf-8"))
            is_same = found["digest"] == self._digest and found["gpus"] == gpus
            return float(found["max_perf"]) if is_same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
