"""What was used, and who did what, over HTTP: each tenant's own, as JSON and CSV, and nothing that is secret."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from core.records.act import ACTS
from core.records.usage import GpuTime
from tests.integration.api.test_tenants import PICTURE, Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH

PRICES = "SIMULATED=3.60 EUR"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with postgres_database() as url:
        chosen = {} if request.param == "sqlite" else {"database_url": url}
        settings = settings_for(tmp_path_factory.mktemp("api"), gpu_prices=PRICES, **chosen)
        with running_api(settings) as running:
            running.worker.come_up()
            yield running


@pytest.fixture(scope="module")
def acme(api: Api) -> Client:
    """A tenant that had 3 s of loads and 7 s of runs, and lost 2 s."""
    client = Client(api, "acme")
    client.uploaded()
    job_id = client.submitted()
    lost = api.worker.claim(job_id)
    api.ledger.requeue.release(lost, reason="gone", spent=GpuTime(run_ms=2000))
    again = api.worker.claim(job_id)
    api.ledger.outputs.succeed_at_once(again, [], outputs_reused=False, spent=GpuTime(run_ms=7000, load_ms=3000))
    canceled = client.submitted()
    client.ask("POST", f"/api/v2/jobs/{canceled}/cancel")
    return client


@pytest.fixture(scope="module")
def operator(api: Api) -> Client:
    return Client(api, "default", "usage", "admin", "operate", "submit", "cancel")


def usage(client: Client, **asked: str) -> dict[str, Any]:
    answer = client.ask("GET", "/api/v2/usage", params=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_tenant_sees_what_it_used(api: Api, acme: Client) -> None:
    report = usage(acme, kept="true")
    [row] = report["rows"]
    assert {name: row[name] for name in ("tenant", "gpu_s", "run_s", "load_s", "lost_s")} == {
        "tenant": "acme",
        "gpu_s": 12.0,
        "run_s": 7.0,
        "load_s": 3.0,
        "lost_s": 2.0,
    }
    assert row["jobs"] == {"succeeded": 1, "failed": 0, "canceled": 1, "expired": 0}
    assert row["bytes_in"] == len(PICTURE)
    assert report["kept"] == [{"tenant": "acme", "bytes": len(PICTURE)}]
    assert report["until"] == datetime.now(timezone.utc).date().isoformat()


def test_a_job_says_its_own(acme: Client) -> None:
    [job] = acme.ask("GET", "/api/v2/jobs?status=succeeded").json()["jobs"]
    told = {"gpu_s": 12.0, "run_s": 7.0, "load_s": 3.0, "lost_s": 2.0}
    assert job["gpu_time"] == told
    assert acme.ask("GET", f"/result/{job['id']}").json()["gpu_time"] == told


def test_what_was_lost_costs_nothing(acme: Client, api: Api) -> None:
    report = usage(acme, by="gpu")
    gpus = {row["gpu"]: row for row in report["rows"]}
    [gpu] = [name for name in gpus if name is not None]
    if "SIMULATED" in gpu:
        assert (report["currency"], gpus[gpu]["cost"], gpus[gpu]["unpriced_s"]) == ("EUR", 0.01, 0.0)
    else:
        assert (report["unpriced_gpus"], gpus[gpu]["cost"], gpus[gpu]["unpriced_s"]) == ([gpu], 0.0, 10.0)


def test_rows_by_key_template_and_day(acme: Client) -> None:
    report = usage(acme, by="day,key,template")
    assert report["by"] == ["key", "template", "day"]
    for row in report["rows"]:
        assert (row["key_id"], row["key_name"], row["template"]) == (acme.key.id, "test", None)
        assert row["tenant"] is None
    assert sum(row["gpu_s"] for row in report["rows"]) == report["total"]["gpu_s"]


def test_another_tenant_sees_nothing_of_it(api: Api, acme: Client) -> None:
    other = Client(api, "globex")
    assert usage(other, by="key,tenant")["rows"] == []
    refused = other.ask("GET", "/api/v2/usage?tenant=acme")
    nobodys = other.ask("GET", "/api/v2/usage?tenant=nobody")
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, nobodys.json()["error"]["message"])


def test_operators_see_all_or_one(acme: Client, operator: Client) -> None:
    assert "acme" in {row["tenant"] for row in usage(operator)["rows"]}
    assert usage(operator, tenant="acme")["total"] == usage(acme)["total"]


@pytest.mark.parametrize("how", ["accept", "format"])
def test_the_same_as_csv(acme: Client, how: str) -> None:
    chosen = {"params": {"format": "csv"}} if how == "format" else {"headers": {"Accept": "text/csv"}}
    answer = acme.ask("GET", "/api/v2/usage", **chosen)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    [row] = csv.DictReader(io.StringIO(answer.text))
    assert (row["tenant"], row["gpu_s"], row["lost_s"], row["succeeded"]) == ("acme", "12.0", "2.0", "1")


@pytest.mark.parametrize(
    "query",
    [
        "by=color",
        "since=yesterday",
        "since=2026-02-30",
        "since=2026-02-02&until=2026-02-01",
        "format=xml",
        "tenant=*",
        "kept=some",
    ],
)
def test_what_cannot_be_asked_names_the_parameter(acme: Client, query: str) -> None:
    answer = acme.ask("GET", f"/api/v2/usage?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]["message"]


def test_it_takes_the_scope(api: Api) -> None:
    reader = Client(api, "acme", "read")
    assert reader.ask("GET", "/api/v2/usage").json()["error"]["code"] == "missing_scope"
    assert Client(api, "acme").ask("GET", "/api/v2/audit").json()["error"]["code"] == "missing_scope"


def acts(client: Client, **asked: str) -> list[dict[str, Any]]:
    answer = client.ask("GET", "/api/v2/audit", params=asked)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["acts"]
    return found


#: Acts of commands, of starts and of rollouts that end by themselves, and of a fleet that has hosts to give back
#: (`test_autoscale.py`).
NOT_DONE = {"webhook.purge", "secret_key.adopt", "settings.start", "rollout.stop", "rollout.done", "host.leave"}


def deed(client: Client, method: str, path: str, **options: Any) -> Any:
    answer = client.ask(method, path, **options)
    assert answer.ok, answer.text
    return answer.json() if answer.content else None


def test_who_did_what_is_told(api: Api, operator: Client) -> None:
    """Each act that can be asked for over HTTP, by a key that is named."""
    boss = Client(api, "default")
    api.ledger.keys.revoke(boss.key.id)
    everything = Client(api, "default", *("submit", "read", "cancel", "webhooks", "models", "operate", "admin"))
    deed(everything, "POST", "/api/v2/tenants", json={"name": "initech"})
    deed(everything, "PATCH", "/api/v2/tenants/initech", json={"weight": 2})
    key = deed(everything, "POST", "/api/v2/keys", json={"name": "k", "tenant": "initech", "scopes": ["read"]})
    rotated = deed(everything, "POST", f"/api/v2/keys/{key['id']}/rotate")
    deed(everything, "POST", f"/api/v2/keys/{key['id']}/revoke")
    for command in ("drain", "resume", "restart"):
        deed(everything, "POST", f"/api/v2/gpus/gpu0/{command}")
    api.ledger.processes.note("io", role="io", host="test", program="1.0", can_upgrade=False)
    rollout = deed(everything, "POST", "/api/v2/rollouts", json={"kind": "restart"})
    for command in ("abort", "resume"):
        deed(everything, "POST", f"/api/v2/rollouts/{rollout['id']}/{command}")
    entry = {"path": "vae/a.safetensors", "source": "https://x.example/a", "sha256": "0" * 64}
    deed(everything, "POST", "/api/v2/model-files", json={"model_files": [entry]})
    deed(everything, "DELETE", "/api/v2/model-files/vae/a.safetensors")
    deed(everything, "PUT", "/api/v2/model-tokens/hub", json={"token": "hush-hush"})
    deed(everything, "DELETE", "/api/v2/model-tokens/hub")
    upload = everything.uploaded(PICTURE + b"x")
    deed(everything, "DELETE", f"/api/v2/assets/{upload['id']}")
    told = {"workflow": GRAPH, "webhook": {"url": "https://hooks.example/x"}}
    job = deed(everything, "POST", "/api/v2/jobs", json=told)
    deed(everything, "POST", f"/api/v2/jobs/{job['id']}/cancel")
    [delivery] = deed(everything, "GET", f"/api/v2/jobs/{job['id']}/deliveries")["deliveries"]
    deed(everything, "POST", f"/webhooks/deliveries/{delivery['id']}/replay")
    deed(everything, "DELETE", f"/api/v2/jobs/{job['id']}")

    found = acts(operator, key_id=everything.key.id, limit="100")
    assert {act["act"] for act in found} == set(ACTS) - NOT_DONE
    for act in found:
        assert act["by"] == {"who": "test", "key_id": everything.key.id, "tenant": "default", "address": "127.0.0.1"}, (
            act
        )
    subjects = {act["act"]: act["subject"] for act in found}
    assert (subjects["job.delete"], subjects["gpu.drain"]) == (job["id"], "gpu0@test")
    text = operator.ask("GET", "/api/v2/audit?limit=100").text
    for secret in (key["secret"], rotated["secret"], everything.secret, "hush"):
        assert secret not in text


def test_the_book_is_paged_and_filtered(api: Api, operator: Client) -> None:
    for number in range(5):
        api.ledger.audit.note("gpu.drain", f"gpu{number}@paged")
    all_of_it = acts(operator, act="gpu.drain", limit="100")
    pages: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        asked = {"act": "gpu.drain", "limit": "2", **({} if cursor is None else {"cursor": cursor})}
        answer = operator.ask("GET", "/api/v2/audit", params=asked).json()
        pages += answer["acts"]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert pages == all_of_it
    [one] = acts(operator, subject="gpu3@paged")
    assert one["by"]["who"].count("@") == 1, "a command on the ledger is its user's"
    assert acts(operator, subject="gpu3@paged", until=one["at"]) == []
    assert acts(operator, subject="gpu3@paged", **{"from": one["at"]}) == [one]


@pytest.mark.parametrize("query", ["act=dance", "cursor=x", "limit=0", "from=noon"])
def test_what_the_book_cannot_be_asked(operator: Client, query: str) -> None:
    assert operator.ask("GET", f"/api/v2/audit?{query}").status_code == 400


def test_a_deed_that_failed_is_not_in_it(api: Api, operator: Client) -> None:
    before = acts(operator, limit="100")
    assert operator.ask("DELETE", "/api/v2/jobs/nothing").status_code == 404
    assert operator.ask("POST", "/api/v2/tenants", json={"name": "default"}).status_code == 409
    assert acts(operator, limit="100") == before
