"""What a dry run says beside its verdict, to whom, and that nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from core.ledger.instances import UNHEALTHY
from core.model_files.needs import USUAL_BYTES_S
from core.records.access import Limits
from core.records.model_file import ModelFile
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.dry_runs.helpers import beating, dry, kept, rows
from tests.integration.api.test_inputs import data_uri, loading
from tests.integration.api.test_tenants import Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.makers import GRAPH
from tests.unit.catalogue_literals import CATALOGUE, with_checkpoints
from tests.unit.catalogue_literals import loading as checkpoint

GB = 10**9
TYPO = {**GRAPH, "3": {"class_type": "EmptyImge", "inputs": {}}}


def come_up(api: Api, name: str, object_info: dict[str, Any], **fields: Any) -> None:
    """A healthy instance, in a pool, on a host of its own."""
    instances, worker = api.ledger.instances, f"w-{name}"
    instances.register(name=name, host=name.partition("@")[2], worker=worker, kind="comfyui", gpu="0")
    reported: dict[str, Any] = {"url": "http://127.0.0.1:1", "output_dir": None, "version": "1", "restarts": 0}
    instances.up(name, worker=worker, object_info=object_info, **{"device": name, **reported, **fields})


@pytest.fixture(params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Pool h100 has a checkpoint and one more class, pool a10 another checkpoint; a host of a10 fetches model files."""
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        with running_api(settings_for(folder)) as running, beating(running):
            yield furnished(running)
        return
    with (
        postgres_database() as url,
        running_api(settings_for(folder, database_url=url)) as running,
        beating(running),
    ):
        yield furnished(running)


def furnished(api: Api) -> Api:
    more = {**with_checkpoints("sdxl.sft"), "Extra": CATALOGUE["ImageInvert"]}
    for gpu in ("gpu0@h", "gpu1@h"):
        come_up(api, gpu, more, pool="h100", vram_bytes=80 * GB)
    come_up(api, "gpu0@a", with_checkpoints("small.sft"), pool="a10", vram_bytes=24 * GB, fetches_models=True)
    # The first file that is kept marks the storage.
    api.post("/api/v2/assets", files={"file": ("a.png", png(1))}, data={"file_path": "a.png"})
    return api


def pools(report: dict[str, Any], can_run: str) -> list[str | None]:
    return [gpu["pool"] for gpu in report["gpus"] if gpu["can_run"] == can_run]


def test_a_model_that_one_pool_has(api: Api) -> None:
    report = dry(api, {"workflow": checkpoint("sdxl.sft")})
    assert report["runnable"]
    assert (pools(report, "yes"), pools(report, "no")) == (["h100"], ["a10"])
    [h100, a10] = sorted(report["gpus"], key=lambda gpu: -gpu["gpus"])
    assert (h100["gpus"], h100["ready"], h100["vram_bytes"], h100["why_not"]) == (2, 2, 80 * GB, [])
    assert a10["why_not"] == ["They lack the model sdxl.sft."]
    [missing] = report["missing"]
    assert (missing["kind"], missing["name"], missing["input"]) == ("model", "sdxl.sft", "ckpt_name")
    assert (missing["absent_in"], missing["present_in"], missing["nearest"]) == (["a10"], ["h100"], [])
    assert "fetch" not in missing


def test_one_that_the_required_pool_lacks(api: Api) -> None:
    report = dry(api, {"workflow": checkpoint("sdxl.sft"), "requires": {"pool": "a10"}})
    assert not report["runnable"]
    assert report["problems"][0]["error"]["code"] == "invalid_workflow"
    assert pools(report, "yes") == []
    assert report["missing"][0]["present_in"] == ["h100"]
    h100 = next(gpu for gpu in report["gpus"] if gpu["pool"] == "h100")
    assert h100["why_not"] == ["The job requires pool a10; these are in pool h100, with 80 GB."]
    assert report["estimate"] is None


def test_one_that_can_be_fetched_and_is_nowhere_yet(api: Api) -> None:
    size_bytes = 20 * GB
    entry = ModelFile(path="checkpoints/new.sft", source="https://a.example/x", sha256="0" * 64, size_bytes=size_bytes)
    api.ledger.manifest.put([entry])
    report = dry(api, {"workflow": checkpoint("new.sft")})
    assert report["accepted"]
    assert (pools(report, "once_fetched"), pools(report, "no")) == (["a10"], ["h100"])
    [missing] = report["missing"]
    assert missing["fetch"] == {"size_bytes": size_bytes, "fetch_s": size_bytes / USUAL_BYTES_S}
    assert (missing["present_in"], missing["nearest"]) == ([], [])
    estimate = report["estimate"]
    assert estimate["reason_code"] == "fetching"
    assert "new.sft" in estimate["reason"]
    assert "a.example" not in str(report), "where it comes from is the operator's"


def test_a_class_that_one_pool_has_and_one_that_nobody_has(api: Api) -> None:
    graph = {**GRAPH, "3": {"class_type": "Extra", "inputs": {"image": ["1", 0]}}}
    report = dry(api, {"workflow": graph})
    assert (pools(report, "yes"), pools(report, "no")) == (["h100"], ["a10"])
    assert report["missing"][0] == {
        "kind": "node",
        "name": "Extra",
        "nodes": ["3"],
        "absent_in": ["a10"],
        "present_in": ["h100"],
        "nearest": [],
    }
    [missing] = dry(api, {"workflow": TYPO})["missing"]
    assert (sorted(missing["absent_in"]), missing["present_in"]) == (["a10", "h100"], [])
    assert missing["nearest"] == ["EmptyImage"]


def test_all_that_is_wrong_is_told_at_once(api: Api) -> None:
    graph = {**loading("room.png", "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"), "9": TYPO["3"]}
    graph["8"] = {"class_type": "LoadImage", "inputs": {"image": data_uri(b"<html>")}}
    report = dry(api, {"workflow": graph})
    codes = [problem["error"]["code"] for problem in report["problems"]]
    assert codes == ["missing_asset", "invalid_workflow", "invalid_request"]
    found = {(each["kind"], each["name"]) for each in report["missing"]}
    assert found == {
        ("input", "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"),
        ("input", "room.png"),
        ("node", "EmptyImge"),
    }


def test_gpus_that_are_away_still_say_what_they_could(api: Api) -> None:
    for name in ("gpu0@h", "gpu1@h", "gpu0@a"):
        api.ledger.instances.down(name, worker=f"w-{name}", state=UNHEALTHY, reason="It is restarted.")
    report = dry(api, {"workflow": checkpoint("sdxl.sft"), "start_within_s": 60})
    assert report["accepted"], "it would wait for them"
    assert [(gpu["gpus"], gpu["ready"]) for gpu in report["gpus"] if gpu["can_run"] == "yes"] == [(2, 0)]
    estimate = report["estimate"]
    assert (estimate["starts_in_s"], estimate["reason_code"]) == (None, "no_gpu")
    assert estimate["expires"], "no GPU takes it in time"


@pytest.mark.parametrize("name", ["sdxl.sft", "small.sft"])
def test_the_estimate_is_what_the_job_is_told_then(api: Api, name: str) -> None:
    """Behind jobs that run and wait."""
    for color in range(12):
        graph = {**checkpoint(name), "image": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "color": color}}}
        assert api.post("/api/v2/jobs", {"workflow": graph}).status_code == 201
    for gpu in ("gpu0@h", "gpu0@a"):
        api.ledger.claims.claim(gpu)
    estimate = dry(api, {"workflow": checkpoint(name)})["estimate"]
    job_id = api.post("/api/v2/jobs", {"workflow": checkpoint(name)}).json()["id"]
    told = api.get(f"/api/v2/jobs/{job_id}").json()
    assert estimate["starts_in_s"] > 40
    assert told["queue_position"] == estimate["position"]
    # Both are of the same expectations; how long the tests took lies between them.
    assert told["estimated_wait_ms"] / 1000 == pytest.approx(estimate["starts_in_s"], rel=0.25, abs=30)
    assert estimate["run_s"] == 46.0


def test_a_learned_duration_counts(api: Api) -> None:
    body = {"workflow": checkpoint("small.sft")}
    job_id = api.post("/api/v2/jobs", body).json()["id"]
    shape = api.ledger.jobs.get(job_id).shape
    api.ledger.jobs.cancel(job_id)
    api.ledger.durations.learn(shape=shape, template=None, gpu="gpu0@a", seconds=7.0)
    estimate = dry(api, body)["estimate"]
    assert (estimate["run_s"], estimate["load_s"], estimate["starts_in_s"]) == (7.0, 10.0, 10.0)


def test_one_that_would_expire(api: Api) -> None:
    for _ in range(4):
        api.post("/api/v2/jobs", {"workflow": checkpoint("small.sft"), "priority": 9})
    api.ledger.claims.claim("gpu0@a")
    body = {"workflow": checkpoint("small.sft"), "start_within_s": 1}
    report = dry(api, body)
    assert report["accepted"], "a submission is accepted, and expires"
    assert report["estimate"]["expires"]
    assert report["estimate"]["reason_code"] == "expires"
    assert not dry(api, {**body, "start_within_s": 86_400})["estimate"]["expires"]


def test_nothing_is_recorded(api: Api) -> None:
    asset = api.post("/api/v2/assets", files={"file": ("b.png", png(2))}, data={"file_path": "b.png"}).json()
    before, turns = kept(api), list(api.publisher.turns)
    secret = {"url": "https://example.com/", "secret": "s"}
    key = {"Idempotency-Key": "a-dry-one"}
    for body in (
        {"workflow": GRAPH, "webhook": secret, "label": "x", "metadata": {"a": "b"}, "start_within_s": 9},
        {"workflow": checkpoint("sdxl.sft"), "priority": 3, "requires": {"pool": "h100"}},
        {"workflow": loading(asset["id"], data_uri(png(60)))},
        {"workflow": loading(data_uri(b"<html>"))},
        {"workflow": TYPO},
    ):
        dry(api, body, headers=key)
    form = {"files": {"user_img": ("room.png", png(61))}, "data": {"style": "style_jp1", "room": "bedroom"}}
    dry(api, None, "/workflows/interior_design", **form)
    dry(api, {"parameters": {"prompt": "a"}}, "/workflows/text2image", headers=key)
    dry(api, {"workflow": GRAPH, "over": {"1.color": "1..50"}, "label": "y"}, "/api/v2/batches", headers=key)
    assert kept(api) == before
    assert api.publisher.turns == turns
    assert api.post("/api/v2/jobs", {"workflow": GRAPH}, headers=key).status_code == 201, "its key is free"


def test_a_tenant_sees_its_own(api: Api) -> None:
    acme, other = Client(api, "acme"), Client(api, "globex")
    upload = acme.uploaded(png(5), "acme-room.png")
    for image in (upload["id"], upload["hash"], "acme-room.png"):
        answers = [who.ask("POST", "/api/v2/jobs?dry_run=true", json={"workflow": loading(image)}).json()
                   for who in (acme, other)]  # fmt: skip
        assert [answer["runnable"] for answer in answers] == [True, False], image
        [missing] = answers[1]["missing"]
        assert (missing["kind"], missing["name"]) == ("input", image)
    nobodys = "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9"
    told = [
        other.ask("POST", "/api/v2/jobs?dry_run=true", json={"workflow": loading(image)}).text.replace(image, "ID")
        for image in (upload["id"], nobodys)
    ]
    assert told[0] == told[1]


def test_scopes_and_limits_of_keys(api: Api) -> None:
    def status(client: Client, path: str, body: dict[str, Any]) -> int:
        return client.ask("POST", f"{path}?dry_run=true", json=body).status_code

    body = {"workflow": checkpoint("sdxl.sft")}
    assert status(Client(api, "acme", "read"), "/api/v2/jobs", body) == 403, "it needs what a submission needs"
    assert status(Client(api, "acme", "submit"), "/api/v2/jobs", body) == 200
    templates = Client(api, "acme", "submit", limits=Limits(templates=("text2image",)))
    assert status(templates, "/api/v2/jobs", body) == 403
    assert status(templates, "/workflows/text2image", {"parameters": {"prompt": "a"}}) == 200
    pool = Client(api, "acme", "submit", limits=Limits(pools=("a10",)))
    report = pool.ask("POST", "/api/v2/jobs?dry_run=true", json=body).json()
    assert not report["runnable"]
    assert [gpu["pool"] for gpu in report["gpus"]] == ["a10"], "what it may not use is not shown"
    assert report["missing"][0]["present_in"] == []


def test_limits_of_a_tenant(api: Api) -> None:
    client = Client(api, "small", "submit")
    api.ledger.tenants.change("small", limits={"max_waiting": 0, "max_kept_bytes": 10})
    before = rows(api.ledger)["jobs"]
    tried = client.ask("POST", "/api/v2/jobs?dry_run=true", json={"workflow": loading(data_uri(png(70)))}).json()
    assert [problem["error"]["code"] for problem in tried["problems"]] == ["limit_reached", "limit_reached"]
    assert [problem["status"] for problem in tried["problems"]] == [429, 429]
    made = client.ask("POST", "/api/v2/jobs", json={"workflow": loading(data_uri(png(70)))})
    assert made.json()["error"] == tried["problems"][0]["error"]
    assert rows(api.ledger)["jobs"] == before
