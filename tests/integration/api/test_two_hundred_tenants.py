"""Two hundred tenants on one fleet: each has its turns, its limits and its sums, and sees its own alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pytest

from core.records.tenant_limits import TenantLimits
from core.records.usage import GpuTime
from tests.integration.api.batches.helpers import BATCHES
from tests.integration.api.test_tenants import Client
from tests.integration.api_fixtures import INSTANCE, Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH

TENANTS, JOBS, RUNS = 200, 3, 100
#: How long the GPU is at work for each job: longer than the load of a model, within which turns are not looked at.
RUN_MS = 30_000
#: All tenants call it the same, as they do their files and requests.
NIGHTLY: dict[str, Any] = {"workflow": GRAPH, "over": {"1.color": f"1..{JOBS}"}, "label": "nightly"}

Found = TypeVar("Found")


class Crowd(NamedTuple):
    """The tenants, and the jobs of each."""

    clients: list[Client]
    #: By tenant: the ids of its jobs.
    jobs: dict[str, set[str]]
    #: By tenant: how many of its jobs had run, after each one that ran.
    runs: list[Counter[str]]
    #: By tenant: what one job more than it may have waiting was answered.
    refused: dict[str, tuple[int, dict[str, Any]]]

    def ask_all(self, ask: Callable[[Client], Found]) -> dict[str, Found]:
        """Have all tenants ask, several at once."""
        with ThreadPoolExecutor(8) as pool:
            return dict(zip([each.key.tenant for each in self.clients], pool.map(ask, self.clients), strict=True))


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with postgres_database() as url:
        chosen = {} if request.param == "sqlite" else {"database_url": url}
        with running_api(settings_for(tmp_path_factory.mktemp("api"), **chosen)) as running:
            running.worker.come_up()
            yield running


@pytest.fixture(scope="module")
def crowd(api: Api) -> Crowd:
    """Each tenant has as many jobs as may wait, and one GPU has run some of all of them."""
    clients = []
    for number in range(TENANTS):
        api.ledger.tenants.create(f"t-{number:03}", limits=TenantLimits(max_waiting=JOBS))
        clients.append(Client(api, f"t-{number:03}", "submit", "read", "usage"))
    crowd = Crowd(clients, {}, [], {})

    def submit(client: Client) -> set[str]:
        api.worker.beat()
        answer = client.ask("POST", BATCHES, json=NIGHTLY, headers={"Idempotency-Key": "nightly"})
        assert answer.status_code == 201, answer.text
        return {job.id for job in api.ledger.batch_children.page(answer.json()["id"], of=client.key.tenant)}

    def one_more(client: Client) -> tuple[int, dict[str, Any]]:
        answer = client.ask("POST", "/api/v2/jobs", json={"workflow": GRAPH})
        return answer.status_code, answer.json()["error"]["details"]

    crowd.jobs.update(crowd.ask_all(submit))
    crowd.refused.update(crowd.ask_all(one_more))
    owners = {job: tenant for tenant, jobs in crowd.jobs.items() for job in jobs}
    ran: Counter[str] = Counter(dict.fromkeys(crowd.jobs, 0))
    for _ in range(RUNS):
        api.worker.beat()
        claim = api.ledger.claims.claim(INSTANCE)
        assert claim is not None
        api.ledger.outputs.succeed_at_once(claim, [], outputs_reused=False, spent=GpuTime(run_ms=RUN_MS))
        ran[owners[claim.job_id]] += 1
        crowd.runs.append(ran.copy())
    return crowd


def test_nobodys_jobs_are_anothers(crowd: Crowd) -> None:
    assert len(crowd.jobs) == TENANTS
    assert {len(jobs) for jobs in crowd.jobs.values()} == {JOBS}
    assert len(set().union(*crowd.jobs.values())) == TENANTS * JOBS


def test_they_take_turns(crowd: Crowd) -> None:
    # A tenant has its turn within one job of the one that used least: it is never ahead by more than two.
    assert max(max(each.values()) - min(each.values()) for each in crowd.runs) == 2


def test_each_is_held_to_its_own_limit(api: Api, crowd: Crowd) -> None:
    reached = (429, {"limit": "max_waiting", "allowed": JOBS, "used": JOBS})
    assert [tenant for tenant, told in crowd.refused.items() if told != reached] == []

    listed = Client(api, "default", "admin").ask("GET", "/api/v2/tenants").json()["tenants"]
    waiting = {each["name"]: each["limits"]["max_waiting"]["used"] for each in listed if each["name"] in crowd.jobs}
    assert waiting == {tenant: JOBS - ran for tenant, ran in crowd.runs[-1].items()}


def test_each_lists_its_own_alone(crowd: Crowd) -> None:
    def seen(client: Client) -> set[str]:
        return {job["id"] for job in client.ask("GET", "/api/v2/jobs").json()["jobs"]}

    assert crowd.ask_all(seen) == crowd.jobs


def test_each_is_told_what_it_used(api: Api, crowd: Crowd) -> None:
    def used(client: Client) -> tuple[int, float, list[str]]:
        report = client.ask("GET", "/api/v2/usage").json()
        rows = [row["tenant"] for row in report["rows"]]
        return report["total"]["jobs"]["succeeded"], report["total"]["gpu_s"], rows

    # A report has no row for who used nothing.
    expected = {tenant: (ran, ran * RUN_MS / 1000, [tenant][:ran]) for tenant, ran in crowd.runs[-1].items()}
    assert crowd.ask_all(used) == expected
    total = Client(api, "default", "usage", "operate").ask("GET", "/api/v2/usage").json()["total"]
    assert (total["jobs"]["succeeded"], total["gpu_s"]) == (RUNS, RUNS * RUN_MS / 1000)
