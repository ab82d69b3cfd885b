"""Requests a minute, as served: counted by all processes together, and by nobody's leave of the broker."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from api.http.request_counts import ANSWER_S
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.tenant_limits import TenantLimits
from core.settings import Settings
from tests.integration.api_fixtures import gunicorn_api
from tests.own_servers import OwnValkey
from tests.services import Broker
from tests.waiting import until

PATH = "/api/v2/jobs?limit=1"


class Asking:
    """A tenant with a key, and a server to ask."""

    def __init__(self, ledger: Ledger, url: str) -> None:
        self.url = url
        self._ledger = ledger

    def be(self, tenant: str, limit: int) -> None:
        """Ask as a new tenant, which may make so many requests in a minute."""
        self._ledger.tenants.create(tenant, limits=TenantLimits(max_requests_per_minute=limit))
        _, self.secret = self._ledger.keys.create(tenant, name="x", scopes=("read",))

    def once(self, _number: int = 0) -> requests.Response:
        return requests.get(self.url + PATH, headers={"X-API-Key": self.secret}, timeout=20)

    def let_in(self, count: int) -> int:
        """Ask so many times, sixteen at once; returns how many were let in."""
        with ThreadPoolExecutor(16) as pool:
            statuses = Counter(answer.status_code for answer in pool.map(self.once, range(count)))
        assert set(statuses) <= {200, 429}, statuses
        return statuses[200]


@contextmanager
def served(settings: Settings, limit: int, *, processes: int = 1) -> Iterator[Asking]:
    """A server, and a tenant that may ask it so many times a minute."""
    migrate(settings)
    ledger = Ledger(settings)
    with gunicorn_api(settings, COMFYLINE_API_PROCESSES=str(processes)) as url:
        asking = Asking(ledger, url)
        asking.be("acme", limit)
        yield asking
    ledger.close()


def standing(answer: requests.Response) -> tuple[int, int]:
    """What is left, and in how many seconds there is more."""
    found = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
    assert found is not None, answer.headers["RateLimit"]
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_processes_let_in_no_more_than_one(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, shared_redis: Broker
) -> None:
    url = "" if database == "sqlite" else request.getfixturevalue("postgres_url")
    settings = shared_redis.settings(tmp_path, database_url=url)
    log = settings.data_dir / "gunicorn.log"
    with served(settings, 200, processes=2) as acme:
        for attempt in range(4):
            acme.be(f"{database}-{attempt}", 200)
            first = acme.once()
            let_in = 1 + acme.let_in(300)
            if "the broker is away" not in log.read_text():
                break
            # On a machine that stood still for a moment they have counted for themselves.
            log.write_text("")
        assert (first.headers["RateLimit-Policy"], standing(first)[0]) == ('"requests";q=200;w=60', 199)
        # What one process has drawn the other one cannot use: of what was left, a 32nd.
        assert 190 <= let_in <= 200
        refused = next(answer for answer in map(acme.once, range(20)) if answer.status_code == 429)
        left, more_in_s = standing(refused)
        body = refused.json()["error"]
        assert body["code"] == "rate_limited"
        assert body["details"]["limit"] == "max_requests_per_minute"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert abs(int(refused.headers["Retry-After"]) - max(1, more_in_s)) <= 1
        assert left == 0
        # Whoever has no key is not counted, and not told.
        nobody = requests.get(acme.url + PATH, timeout=20)
        assert (nobody.status_code, "RateLimit" in nobody.headers) == (401, False)


def test_a_frozen_broker_refuses_nobody_and_holds_nobody_up(own_valkey: OwnValkey) -> None:
    settings = own_valkey.settings
    with served(settings, 100_000) as acme:
        for _ in range(20):
            acme.once()
        own_valkey.freeze()
        try:
            took_s = []
            for _ in range(100):
                began_s = time.monotonic()
                assert acme.once().status_code == 200
                took_s.append(time.monotonic() - began_s)
            # One of them found out. Were each to wait for the broker, none could be as quick as that.
            assert sum(each < ANSWER_S for each in took_s) >= 25, took_s
            assert standing(acme.once())[0] > 90_000
        finally:
            own_valkey.thaw()
        log = settings.data_dir / "gunicorn.log"
        until(lambda: "the broker is back" in log.read_text(), timeout_s=20, what="counting together again")
        assert acme.once().status_code == 200


def test_without_a_broker_each_process_counts_for_itself(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0")
    with served(settings, 40) as acme:
        assert acme.let_in(60) == 40


def test_operators_can_always_raise_a_limit(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0", api_keys=("a-key-of-settings",))
    migrate(settings)
    key = {"X-API-Key": "a-key-of-settings"}
    more = {"COMFYLINE_API_KEYS": "a-key-of-settings", "COMFYLINE_TENANT_MAX_REQUESTS_PER_MINUTE": "2"}
    with gunicorn_api(settings, **more) as url:
        statuses = [requests.get(url + PATH, headers=key, timeout=20).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        path = f"{url}/api/v2/tenants"
        assert requests.get(path, headers=key, timeout=20).status_code == 200
        body = {"max_requests_per_minute": "unlimited"}
        assert requests.patch(f"{path}/default", json=body, headers=key, timeout=20).status_code == 200

        def is_let_in() -> bool:
            answer = requests.get(url + PATH, headers=key, timeout=20)
            return answer.status_code == 200 and "RateLimit" not in answer.headers

        until(is_let_in, timeout_s=5, what="a limit that is lifted")
