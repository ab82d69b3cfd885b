"""Metrics over HTTP: who may scrape, what a scrape says of jobs and GPUs, and of a ledger that is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from api.server.metrics import scrape
from core.ledger.database.tables import jobs
from core.ledger.rollouts.rolling import Plan
from core.ledger.upgrade import migrate
from core.metrics.counted import COUNTED
from core.settings import Settings
from tests.integration.api_fixtures import (
    Api,
    FreezableProxy,
    gunicorn_api,
    postgres_database,
    running_api,
    settings_for,
)
from tests.ports import free_port
from tests.services import NO_BROKER
from tests.waiting import PATIENCE, until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
KEY = "a-key-of-the-settings"


def samples(text: str) -> Samples:
    """All samples of a scrape, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


@pytest.fixture(params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    # Else each look would be a second old.
    monkeypatch.setattr(scrape, "MAX_AGE_S", 0.0)
    if request.param == "sqlite":
        with running_api(settings_for(tmp_path, broker_url=NO_BROKER, allow_networks=("loopback",))) as running:
            yield running
        return
    with (
        postgres_database() as url,
        running_api(
            settings_for(tmp_path, database_url=url, broker_url=NO_BROKER, allow_networks=("loopback",))
        ) as running,
    ):
        yield running


def test_a_scrape_tells_of_jobs_gpus_and_parts(api: Api) -> None:
    api.worker.come_up()
    waiting = [api.submit(priority=1) for _ in range(3)]
    ended = api.submit(priority=100)
    api.worker.run(ended, b"x")
    claim = api.worker.claim(waiting[0])
    while api.ledger.usage.fold() or api.ledger.metrics.fold():
        continue

    def parts() -> Samples | None:
        found = samples(api.get("/metrics").text)
        # Looked at beside the scrapes.
        return found if value(found, "comfyline_up", part="storage") is not None else None

    found = until(parts, timeout_s=30, what="a look at the storage")

    assert value(found, "comfyline_jobs", status="queued", tenant="default") == 2
    assert value(found, "comfyline_jobs", status="running", tenant="default") == 1
    assert value(found, "comfyline_template_jobs", status="running", template="none") == 1
    assert value(found, "comfyline_jobs_waiting", pool="any") == 2
    assert (value(found, "comfyline_oldest_job_wait_seconds", pool="any") or 0) > 0
    assert value(found, "comfyline_gpus", state="healthy", pool="-") == 1
    assert value(found, "comfyline_gpus_busy", pool="-") == 1
    gpu = api.ledger.jobs.get(claim.job_id).instance or ""
    assert value(found, "comfyline_gpu_up", gpu=gpu) == 1
    assert value(found, "comfyline_gpu_busy", gpu=gpu) == 1
    assert value(found, "comfyline_jobs_ended_total", status="succeeded", tenant="default", template="none") == 1
    assert value(found, "comfyline_job_wait_seconds_count", tenant="default") == 1
    assert value(found, "comfyline_job_wait_seconds_bucket", tenant="default", le="+Inf") == 1
    assert value(found, "comfyline_up", part="ledger") == 1
    assert value(found, "comfyline_up", part="broker") == 0
    assert value(found, "comfyline_up", part="storage") == 1
    assert value(found, "comfyline_leases_lost_total") == 0


def test_jobs_that_wait_are_told_by_template_as_they_were_counted_last(api: Api) -> None:
    api.worker.come_up()
    _, *of_template = [api.submit() for _ in range(3)]
    with api.ledger.database.write() as transaction:
        # Its nodes are more than this stand-in for a worker has.
        transaction.connection.execute(update(jobs).where(jobs.c.id.in_(of_template)).values(workflow="text2image"))

    assert not any(name == "comfyline_template_jobs_waiting" for name, _ in samples(api.get("/metrics").text))
    assert api.ledger.waiting_templates.count()

    await_value(api, 2, "comfyline_template_jobs_waiting", template="text2image")
    await_value(api, 1, "comfyline_template_jobs_waiting", template="none")
    assert not api.ledger.waiting_templates.count(), "it was counted a moment ago"


def test_the_newest_rollout_is_told(api: Api) -> None:
    for state in ("running", "stopped"):
        await_value(api, 0, "comfyline_rollout", state=state)
    _begin_rollout(api)
    await_value(api, 1, "comfyline_rollout", state="running")
    await_value(api, 1, "comfyline_rollout_hosts", state="waiting")

    api.ledger.rollouts.advance(choose=lambda *_: Plan(state="stopped", reason="Jobs fail."))

    await_value(api, 1, "comfyline_rollout", state="stopped")
    await_value(api, 0, "comfyline_rollout", state="running")


def await_value(api: Api, wanted: float, name: str, **labels: str) -> None:
    """Scrape until it is so: what a look took long for is told for a while."""

    def is_so() -> bool:
        return value(samples(api.get("/metrics").text), name, **labels) == wanted

    until(is_so, what=f"{name} {labels} = {wanted:g}")


def _begin_rollout(api: Api) -> None:
    api.ledger.processes.note("api@a", role="api", host="a", program="0", can_upgrade=False)
    api.ledger.rollouts.begin(
        "restart", version=None, hosts=(), at_once=1, timeout_s=900, max_failures=0.2, watch_s=30, by=None
    )


def test_webhooks_that_are_due_and_files_that_are_kept_are_told(api: Api) -> None:
    api.worker.come_up()
    api.submit(webhook={"url": "http://127.0.0.1:9/hook"})
    job_id = api.submit(webhook={"url": "http://127.0.0.1:9/hook"}, priority=100)
    api.worker.run(job_id, b"x")

    found = samples(api.get("/metrics").text)

    assert (value(found, "comfyline_webhooks_due") or 0) >= 1
    assert (value(found, "comfyline_webhooks_behind_seconds") or 0) > 0
    assert (value(found, "comfyline_kept_bytes", tenant="default") or 0) > 0


def test_a_tenant_of_which_nothing_was_counted_yet_has_its_name_and_no_more_than_twenty_do(api: Api) -> None:
    for number in range(30):
        api.ledger.tenants.create(f"new-{number:02}")
        with api.ledger.database.write() as transaction:
            transaction.kept_changes[f"new-{number:02}"] += 1000 - number

    found = samples(api.get("/metrics").text)

    named = {dict(labels)["tenant"] for name, labels in found if name == "comfyline_kept_bytes"}
    assert {"new-00", "new-18", "other"} <= named
    assert len(named) <= 21


def test_a_histogram_adds_up_and_every_family_has_its_type(api: Api) -> None:
    api.worker.come_up()
    api.worker.run(api.submit(), b"x")
    while api.ledger.usage.fold() or api.ledger.metrics.fold():
        continue

    answer = api.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain")
    for family in text_string_to_metric_families(answer.text):
        meant = COUNTED.get(family.name, COUNTED.get(f"{family.name}_total"))
        assert meant is None or family.type == meant.kind
        buckets = [each.value for each in family.samples if each.name.endswith("_bucket") and len(each.labels) == 1]
        assert buckets == sorted(buckets), family.name


def test_only_operators_scrape_where_keys_are_asked_for(tmp_path: Path) -> None:
    with running_api(settings_for(tmp_path, broker_url=NO_BROKER, api_keys=(KEY,))) as api:
        _, reader = api.ledger.keys.create("default", name="reader", scopes=("read",))
        _, operator = api.ledger.keys.create("default", name="operator", scopes=("operate",))

        def status(key: str | None) -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return api.get("/metrics", headers=headers).status_code

        assert [status(key) for key in (None, "wrong-key", reader, operator, KEY)] == [401, 401, 403, 200, 200]


@pytest.fixture
def ready(tmp_path: Path) -> Settings:
    settings = settings_for(tmp_path / "data", broker_url=NO_BROKER)
    settings.make_data_dir()
    migrate(settings)
    return settings


@pytest.mark.slow
def test_a_port_of_its_own_serves_metrics_and_nothing_else(ready: Settings) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    with gunicorn_api(ready, COMFYLINE_METRICS_PORT=str(port), COMFYLINE_API_KEYS=KEY) as url:
        assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
        answer = requests.get(f"{own}/metrics", timeout=10)
        assert answer.status_code == 200
        assert value(samples(answer.text), "comfyline_up", part="ledger") == 1
        # What a client says of the port is of no account: only where the connection came in.
        assert requests.get(f"{url}/metrics", headers={"Host": f"127.0.0.1:{port}"}, timeout=10).status_code == 401
        for path in ("/", "/ready", "/api/v2/jobs", "/metrics/"):
            assert requests.get(f"{own}{path}", timeout=10).status_code == 404
        assert requests.post(f"{own}/metrics", timeout=10).status_code == 404


@pytest.mark.slow
def test_what_all_processes_count_is_one_sum_and_stays_when_they_end(ready: Settings) -> None:
    settings = {"COMFYLINE_API_PROCESSES": "2", "COMFYLINE_METRICS_REPORT_S": "0.5"}
    with gunicorn_api(ready, **settings) as url:
        for _ in range(40):
            # A connection for each, so that both processes answer some.
            assert requests.get(f"{url}/api/v2/jobs", timeout=10).status_code == 200
        until(_folded(ready, 40), what="40 requests in the sums")
        seen = [_requests(requests.get(f"{url}/metrics", timeout=10).text) for _ in range(6)]
        assert set(seen) == {40.0}
        until(lambda: value(_scrape(url), "comfyline_processes", role="api") == 2, what="both processes")
        for _ in range(3):
            requests.get(f"{url}/api/v2/jobs", timeout=10)
    # They have ended, and reported what came last.
    until(_folded(ready, 43), what="43 requests in the sums")
    with gunicorn_api(ready, **settings) as url:
        assert _requests(requests.get(f"{url}/metrics", timeout=10).text) == 43


def _scrape(url: str) -> Samples:
    return samples(requests.get(f"{url}/metrics", timeout=10).text)


def _requests(text: str) -> float | None:
    return value(samples(text), "comfyline_api_requests_total", method="GET", route="/api/v2/jobs", status="200")


def _folded(settings: Settings, count: int) -> Callable[[], bool]:
    from core.ledger import Ledger

    sample = "\t".join(("comfyline_api_requests_total", "", "GET", "/api/v2/jobs", "200"))

    def is_so() -> bool:
        with closing(Ledger(settings)) as ledger:
            ledger.metrics.fold()
            return ledger.metrics.read().get(sample) == count

    return is_so


@pytest.mark.slow
def test_a_ledger_that_is_away_is_told_within_a_second(tmp_path: Path) -> None:
    with postgres_database() as database:
        direct = settings_for(tmp_path, database_url=database, broker_url=NO_BROKER)
        migrate(direct)
        where = direct.database_url.rpartition("@")[2].partition("/")[0].partition(":")
        with closing(FreezableProxy(where[0], int(where[2] or 5432))) as proxy:
            behind = database.replace("".join(where), f"127.0.0.1:{proxy.port}", 1)
            settings = settings_for(tmp_path, database_url=behind, broker_url=NO_BROKER)
            with gunicorn_api(settings) as url:
                assert value(_scrape(url), "comfyline_up", part="ledger") == 1
                until(lambda: value(_scrape(url), "comfyline_up", part="storage") == 1, what="a look at storage")
                proxy.freeze()
                took_s: list[float] = []
                found: Samples = {}
                while value(found, "comfyline_up", part="ledger") != 0:
                    # What was seen last holds for a moment, and longer where it took long.
                    assert len(took_s) < 100
                    time.sleep(0.2)
                    begun_s = time.monotonic()
                    found = _scrape(url)
                    took_s.append(time.monotonic() - begun_s)
                assert value(found, "comfyline_up", part="storage") == 1
                assert value(found, "comfyline_jobs_waiting", pool="any") is None
                # A second, and as much again for a machine that is busy.
                assert max(took_s) < 2 * PATIENCE
                proxy.thaw()
                until(lambda: value(_scrape(url), "comfyline_up", part="ledger") == 1, timeout_s=20, what="the ledger")
