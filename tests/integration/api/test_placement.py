"""When, and on which GPU, jobs are to begin: what each contract takes, what is refused, and what an answer shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.ledger.instances import UNHEALTHY
from core.records.job import Job
from core.records.requirements import Requirements
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.unit.catalogue_literals import CATALOGUE

BIG, SMALL = 80_000_000_000, 24_500_000_000
PROMPT = {"prompt": "a", "width": 64, "height": 64, "steps": 1, "seed": 0}
CONTRACTS = ["v2", "workflows", "generate", "custom_workflow"]
#: The same, and those that take it in the envelope of Vast's router too.
WAYS = [*((contract, False) for contract in CONTRACTS), ("generate", True), ("custom_workflow", True)]


def come_up(api: Api, name: str, object_info: dict[str, Any] | None = None, **fields: Any) -> None:
    """A healthy instance with a pool, and memory."""
    instances = api.ledger.instances
    instances.register(name=name, host="test", worker=f"w-{name}", kind="comfyui", gpu="0")
    reported: dict[str, Any] = {"url": "http://127.0.0.1:1", "output_dir": None, "version": "1", "device": "d"}
    reported |= {"object_info": object_info or CATALOGUE, "restarts": 0}
    instances.up(name, worker=f"w-{name}", **reported, **fields)


def away(api: Api, name: str) -> None:
    api.ledger.instances.down(name, worker=f"w-{name}", state=UNHEALTHY, reason="It is restarted.")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with two pools, one GPU each, and a template that requires much memory; `prompt` fills another one."""
    folder: Path = tmp_path_factory.mktemp("workflows")
    width = {"type": "integer", "default": 64, "target": [["1", "width"]]}
    sidecar = {"title": "Large", "requires": {"pool": "big", "vram_gb": 40}, "parameters": {"width": width}}
    (folder / "large.json").write_text(json.dumps(GRAPH))
    (folder / "large.params.json").write_text(json.dumps(sidecar))
    (folder / "plain.json").write_text(json.dumps(GRAPH))
    ranked = {"title": "Ranked", "parameters": {"priority": width}}
    (folder / "ranked.json").write_text(json.dumps(GRAPH))
    (folder / "ranked.params.json").write_text(json.dumps(ranked))
    settings = settings_for(
        tmp_path_factory.mktemp("api"), workflows_dir=folder, comfy_model="plain", max_priority=100, host="test"
    )
    with running_api(settings) as running:
        come_up(running, "gpu0@test", pool="big", vram_bytes=BIG)
        come_up(running, "gpu1@test", vram_bytes=SMALL)
        yield running


def post(api: Api, contract: str, template: str = "plain", *, is_wrapped: bool = False, **fields: Any) -> Any:
    """The answer to a request with these fields, by one of the ways to say them."""
    path, body = {
        "v2": ("/api/v2/jobs", {"workflow": GRAPH, **fields}),
        "workflows": (f"/workflows/{template}", {"parameters": {}, **fields}),
        "generate": ("/generate", {"input": {"workflow_json": GRAPH, **fields}}),
        "custom_workflow": ("/custom_workflow", {"workflow": GRAPH, **fields}),
    }[contract]
    return api.post(path, {"auth_data": {}, "payload": body} if is_wrapped else body)


def submitted(api: Api, contract: str, template: str = "plain", **fields: Any) -> Job:
    answer = post(api, contract, template, **fields)
    assert answer.status_code in (201, 202), answer.text
    return api.ledger.jobs.get(api.ledger.jobs.get_by_request_id(answer.json()["id"]).id)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_each_contract_takes_all_of_it(api: Api, contract: str) -> None:
    job = submitted(api, contract, priority=7, requires={"pool": "big", "vram_gb": 24}, start_within_s=90)
    assert (job.priority, job.start_within_s) == (7, 90.0)
    assert job.requires == Requirements(pool="big", vram_gb=24.0)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_who_says_nothing_gets_what_there_was(api: Api, contract: str) -> None:
    job = submitted(api, contract)
    assert (job.priority, job.start_within_s, job.requires) == (0, None, None)


def test_so_does_a_prompt(api: Api) -> None:
    refused = api.post("/prompt", {**PROMPT, "requires": {"pool": "none"}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "requirements_unmet")
    assert "start_within_s must be" in api.post("/prompt", {**PROMPT, "start_within_s": -1}).text
    assert "COMFYLINE_MAX_PRIORITY" in api.post("/prompt", {**PROMPT, "priority": 101}).text


def test_a_job_shows_it(api: Api) -> None:
    job_id = submitted(api, "v2", requires={"vram_gb": 24}, start_within_s=90.5).id
    shown = api.get(f"/api/v2/jobs/{job_id}").json()
    assert (shown["requires"], shown["start_within_s"]) == ({"vram_gb": 24.0}, 90.5)
    plain = api.get(f"/api/v2/jobs/{submitted(api, 'v2').id}").json()
    assert not {"requires", "start_within_s"} & plain.keys()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"requires": "big"}, "requires must be an object, not 'big'."),
        ({"requires": {"pool": ""}}, "requires.pool must be 1 to 64 of A-Z a-z 0-9 . _ -"),
        ({"requires": {"pool": "a b"}}, "requires.pool must be 1 to 64 of"),
        ({"requires": {"vram_gb": "24"}}, "requires.vram_gb must be a number from 0 to 4096, not '24'."),
        ({"requires": {"vram_gb": -1}}, "requires.vram_gb must be a number from 0 to 4096, not -1."),
        ({"requires": {"vram": 24}}, "Unknown field 'requires.vram': it is called requires.vram_gb here."),
        ({"requires": {"gpus": 2}}, "Unknown field 'requires.gpus'; there are: pool, vram_gb."),
        ({"pool": "big"}, "Unknown field 'pool': it is called requires.pool here."),
        ({"start_within_s": 0}, "start_within_s must be a number above 0 and at most 604800, not 0."),
        ({"start_within_s": "60"}, "start_within_s must be a number"),
        ({"start_within": 60}, "Unknown field 'start_within': it is called start_within_s here."),
        ({"priority": 1_000_001}, "priority must be an integer from -1000000 to 1000000"),
        ({"priority": 101}, "priority must be at most 100, not 101: COMFYLINE_MAX_PRIORITY is the limit here."),
    ],
)
def test_what_is_wrong_is_named(api: Api, fields: dict[str, Any], words: str) -> None:
    answer = post(api, "v2", **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(("contract", "is_wrapped"), WAYS)
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"priority": 101}, "priority must be at most 100, not 101"),
        ({"priority": 1_000_001}, "priority must be an integer from"),
        ({"start_within_s": 0}, "start_within_s must be a number above 0"),
        ({"requires": "big"}, "requires must be an object"),
        ({"requires": {"vram_gb": -1}}, "requires.vram_gb must be a number from"),
        ({"requires": {"vram": 1}}, "Unknown field 'requires.vram': it is called"),
    ],
)
def test_an_error_names_the_place_in_the_contracts_body(
    api: Api, contract: str, fields: dict[str, Any], words: str, is_wrapped: bool
) -> None:
    answer = post(api, contract, is_wrapped=is_wrapped, **fields)
    name = ("payload." if is_wrapped else "") + ("input." if contract == "generate" else "")
    before, field = ("Unknown field '", words[15:]) if words.startswith("Unknown") else ("", words)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert answer.json()["error"]["message"].startswith(f"{before}{name}{field}")


def test_the_highest_priority_may_be_used(api: Api) -> None:
    assert submitted(api, "v2", priority=100).priority == 100


def test_beside_the_input_it_is_told_where_it_belongs(api: Api) -> None:
    answer = api.post("/generate", {"input": {"workflow_json": GRAPH}, "requires": {"pool": "big"}})
    assert "it is called input.requires here" in answer.text


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("priority", 5, "priority"),
        ("requires", {"pool": "big"}, "requires"),
        ("requires", "nonsense", "requires"),
        ("start_within_s", 60, "start_within_s"),
        ("startWithin", 60, "start_within_s"),
        ("pool", "big", "requires.pool"),
        ("s3", {"prefix": "a"}, "s3"),
        ("webhook_url", "https://example.com/", "webhook.url"),
    ],
)
def test_among_custom_fields_it_is_told_where_it_belongs(
    api: Api, name: str, value: Any, place: str, is_wrapped: bool
) -> None:
    answer = post(api, "custom_workflow", custom_fields={"steps": 20, name: value}, is_wrapped=is_wrapped)
    within = "payload." if is_wrapped else ""
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    words = f"Unknown field '{within}custom_fields.{name}': it is called {within}{place} here."
    assert answer.json()["error"]["message"] == words


def test_a_custom_field_of_that_name_fills_its_placeholder(api: Api) -> None:
    graph = json.loads(json.dumps(GRAPH).replace('"filename_prefix": "', '"filename_prefix": "{{PRIORITY}}'))
    assert graph != GRAPH
    job = submitted(api, "custom_workflow", workflow=graph, custom_fields={"priority": 5, "requires": "", "steps": 1})
    assert (job.priority, job.requires) == (0, None)


@pytest.mark.parametrize(
    ("own", "together"),
    [
        (None, Requirements(pool="big", vram_gb=40.0)),
        ({"vram_gb": 60}, Requirements(pool="big", vram_gb=60.0)),
        ({"pool": None, "vram_gb": 0}, Requirements(pool="big", vram_gb=0.0)),
    ],
)
def test_what_a_template_requires_counts_where_a_job_says_nothing(
    api: Api, own: dict[str, Any] | None, together: Requirements
) -> None:
    assert submitted(api, "workflows", "large", **({"requires": own} if own else {})).requires == together
    shown = api.get("/workflows/large").json()
    assert shown["requires"] == {"pool": "big", "vram_gb": 40.0}
    assert "requires" not in api.get("/workflows/plain").json()


def test_a_form_has_its_templates_requirements(api: Api) -> None:
    answer = api.post("/workflows/large", files={"width": (None, "64")})
    assert answer.status_code == 201, answer.text
    assert answer.json()["requires"] == {"pool": "big", "vram_gb": 40.0}


def form(**fields: str) -> dict[str, tuple[None, str]]:
    return {name: (None, text) for name, text in fields.items()}


def test_a_form_takes_all_of_it(api: Api) -> None:
    fields = form(width="64", priority="7", requires='{"vram_gb": 60}', start_within_s="90.5")
    answer = api.post("/workflows/large", files=fields)
    assert answer.status_code == 201, answer.text
    job = api.ledger.jobs.get(answer.json()["id"])
    assert (job.priority, job.start_within_s) == (7, 90.5)
    assert job.requires == Requirements(pool="big", vram_gb=60.0)
    assert job.parameters == {"width": 64}


def test_a_blank_field_of_a_form_says_nothing(api: Api) -> None:
    answer = api.post("/workflows/plain", files=form(priority="", requires=" ", start_within_s=""))
    job = api.ledger.jobs.get(answer.json()["id"])
    assert (job.priority, job.requires, job.start_within_s) == (0, None, None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"priority": "high"}, "priority must be an integer from -1000000 to 1000000, not 'high'."),
        ({"priority": "101"}, "priority must be at most 100, not 101"),
        ({"requires": "pool=big"}, "requires must be an object, not 'pool=big'."),
        ({"requires": '{"pool": "big"'}, "requires must be an object, not '{"),
        ({"requires": '{"vram": 24}'}, "Unknown field 'requires.vram': it is called requires.vram_gb here."),
        ({"start_within_s": "nan"}, "start_within_s must be a number above 0 and at most 604800, not 'nan'."),
        ({"start_within_s": "0"}, "start_within_s must be a number above 0 and at most 604800, not 0."),
    ],
)
def test_what_is_wrong_in_a_form_is_named(api: Api, fields: dict[str, str], words: str) -> None:
    answer = api.post("/workflows/plain", files=form(**fields))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert answer.json()["error"]["message"].startswith(words)


def test_a_field_of_a_form_is_the_templates_own_parameter_first(api: Api) -> None:
    answer = api.post("/workflows/ranked", files=form(priority="64"))
    job = api.ledger.jobs.get(answer.json()["id"])
    assert (job.priority, job.parameters) == (0, {"priority": 64})


@pytest.mark.parametrize(
    ("requires", "asked"),
    [
        ({"pool": "h100"}, "pool h100"),
        ({"vram_gb": 81}, "at least 81 GB of GPU memory"),
        ({"pool": "big", "vram_gb": 81}, "pool big and at least 81 GB of GPU memory"),
    ],
)
def test_what_no_gpu_can_satisfy_is_refused_with_what_there_is(api: Api, requires: dict[str, Any], asked: str) -> None:
    answer = post(api, "v2", requires=requires)
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "requirements_unmet"
    assert answer.json()["error"]["message"] == (
        f"No GPU of this fleet has {asked}. There are: 1 in no pool with 24.5 GB, 1 in pool big with 80 GB."
    )


def test_what_a_template_requires_is_checked_too(api: Api) -> None:
    answer = post(api, "workflows", "large", requires={"vram_gb": 81})
    assert answer.json()["error"]["code"] == "requirements_unmet"


class TestFleetsThatChange:
    @pytest.fixture
    def api(self, tmp_path: Path) -> Iterator[Api]:
        with running_api(settings_for(tmp_path)) as running:
            yield running

    def test_a_gpu_that_is_only_away_counts(self, api: Api) -> None:
        come_up(api, "gpu0@test", pool="big", vram_bytes=BIG)
        come_up(api, "gpu1@test", vram_bytes=SMALL)
        away(api, "gpu0@test")
        assert submitted(api, "v2", requires={"pool": "big"}).status == "queued"
        assert post(api, "v2", requires={"pool": "huge"}).status_code == 422

    def test_one_that_starts_for_the_first_time_counts_by_its_pool(self, api: Api) -> None:
        come_up(api, "gpu1@test", vram_bytes=SMALL)
        api.ledger.instances.register(name="gpu0@test", host="test", worker="w", kind="comfyui", gpu="0", pool="big")
        answer = post(api, "v2", requires={"pool": "big", "vram_gb": 60})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "deployment_not_ready")

    def test_a_graph_is_judged_by_the_gpus_that_are_as_required(self, api: Api) -> None:
        poor = {name: node for name, node in CATALOGUE.items() if name != "EmptyImage"}
        come_up(api, "gpu0@test", poor, pool="big", vram_bytes=BIG)
        come_up(api, "gpu1@test", vram_bytes=SMALL)
        answer = post(api, "v2", requires={"pool": "big"})
        assert answer.json()["error"]["code"] == "invalid_workflow", "the other GPU could, and may not"
        assert post(api, "v2").status_code == 201
        away(api, "gpu0@test")
        answer = post(api, "v2", requires={"pool": "big"})
        assert answer.json()["error"]["code"] == "invalid_workflow", "it comes back as it was"

    def test_a_pinned_job_waits_for_a_gpu_of_its_pool(self, api: Api) -> None:
        come_up(api, "gpu0@test", {**CATALOGUE, "Other": {}}, pool="big", vram_bytes=BIG)
        come_up(api, "gpu1@test", vram_bytes=SMALL)
        job = submitted(api, "v2", requires={"pool": "big"})
        assert api.ledger.claims.claim("gpu1@test", named=job.id) is None
        claim = api.ledger.claims.claim("gpu0@test")
        assert claim is not None
        assert claim.job_id == job.id
