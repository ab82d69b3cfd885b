"""Batches over HTTP, taken in whole or not at all: on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from core.records.job_error import JobError
from tests.integration.api.batches.helpers import BATCHES, batch_of, children_of, submit_batch
from tests.integration.api_fixtures import INSTANCE, Api, postgres_database, running_api, settings_for
from tests.ledger_moves import set_columns
from tests.makers import GRAPH
from tests.simulator_process import simulator


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgresql" else ""
        settings = settings_for(tmp_path_factory.mktemp("api"), database_url=url, max_queued=2_000)
        running = stack.enter_context(running_api(settings))
        running.worker.come_up(object_info=nodes)
        yield running


@pytest.fixture(autouse=True)
def empty_queue(api: Api) -> Iterator[None]:
    api.worker.beat()
    yield
    for batch in api.ledger.batches.page(limit=1000):
        api.ledger.batch_work.ask_cancel(batch.id)
        while api.ledger.batch_work.cancel_some(batch.id)[1]:
            pass


def recorded(api: Api) -> int:
    """How many jobs wait, and how many batches there are."""
    return api.ledger.jobs.count("queued") + len(api.ledger.batches.page(limit=1000))


def test_crossed_values_become_jobs_in_order_with_their_own_graphs(api: Api) -> None:
    batch = submit_batch(api, {"1.width": [64, 128], "1.color": "1..3"}, label="colours", metadata={"client": "acme"})
    assert (batch["total"], batch["status"], batch["progress"], batch["label"]) == (6, "running", 0, "colours")
    assert batch["counts"]["queued"] == 6
    assert [each["count"] for each in batch["over"]] == [2, 3]
    children = children_of(api, batch["id"], limit=4)
    assert [child["batch"]["index"] for child in children] == list(range(6))
    assert [child["batch"]["varied"] for child in children][:4] == [
        {"1.width": 64, "1.color": 1},
        {"1.width": 64, "1.color": 2},
        {"1.width": 64, "1.color": 3},
        {"1.width": 128, "1.color": 1},
    ]
    assert {json.dumps(child["metadata"]) for child in children} == {'{"client": "acme"}'}
    graph = api.get(f"/api/v2/jobs/{children[3]['id']}/workflow").json()["workflow"]
    assert graph["1"]["inputs"] == {**GRAPH["1"]["inputs"], "width": 128, "color": 1}
    assert graph["2"] == GRAPH["2"]


def test_a_worker_gets_the_whole_graph_of_each_job_in_the_order_of_the_batch(api: Api) -> None:
    submit_batch(api, {"1.color": "5..8"})
    claims = [api.ledger.claims.claim(INSTANCE) for _ in range(4)]
    graphs = [json.loads(claim.graph) for claim in claims if claim is not None]
    assert [graph["1"]["inputs"]["color"] for graph in graphs] == [5, 6, 7, 8]
    assert all(graph["2"] == GRAPH["2"] for graph in graphs)
    for claim in filter(None, claims):
        api.worker.finish(claim, b"x")


def test_side_by_side_there_is_one_job_for_each_pair(api: Api) -> None:
    batch = submit_batch(api, {"1.width": [64, 128], "1.color": [1, 2]}, mode="zip")
    varied = [child["batch"]["varied"] for child in children_of(api, batch["id"])]
    assert varied == [{"1.width": 64, "1.color": 1}, {"1.width": 128, "1.color": 2}]


def test_a_template_draws_a_seed_for_each_job_that_none_is_given_for(api: Api) -> None:
    body = {"template": "text2image", "parameters": {"steps": 2}, "over": {"prompt": ["a", "b, and\nc", "{{SEED}}"]}}
    answer = api.post(BATCHES, body)
    assert answer.status_code == 201, answer.text
    children = children_of(api, answer.json()["id"])
    assert [child["parameters"]["prompt"] for child in children] == ["a", "b, and\nc", "{{SEED}}"]
    assert len({child["parameters"]["seed"] for child in children}) == 3
    assert {api.ledger.jobs.get(child["id"]).drawn for child in children} == {("seed",)}, "a rerun draws it anew"
    graphs = [api.get(f"/api/v2/jobs/{child['id']}/workflow").json()["workflow"] for child in children]
    for child, graph in zip(children, graphs, strict=True):
        text = json.dumps(graph)
        assert str(child["parameters"]["seed"]) in text
        assert json.dumps(child["parameters"]["prompt"])[1:-1] in text


def test_jobs_may_be_named_one_by_one(api: Api) -> None:
    other = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "color": 77}}}
    jobs: list[dict[str, Any]] = [
        {"workflow": GRAPH},
        {"workflow": other, "metadata": {"which": "second"}},
        {"template": "text2image", "parameters": {"prompt": "x"}},
    ]
    answer = api.post(BATCHES, {"jobs": jobs})
    assert answer.status_code == 201, answer.text
    children = children_of(api, answer.json()["id"])
    graphs = [api.get(f"/api/v2/jobs/{child['id']}/workflow").json()["workflow"] for child in children]
    assert graphs[:2] == [GRAPH, other]
    assert children[1]["metadata"] == {"which": "second"}
    assert children[2]["template"] == "text2image"
    assert answer.json()["over"] is None


def test_children_are_found_by_status_and_by_what_was_varied(api: Api) -> None:
    batch = submit_batch(api, {"1.width": [64, 128], "1.color": "1..3", "2.filename_prefix": ["a", "b"]})
    found = children_of(api, batch["id"], **{"varied[1.color]": "2", "varied[2.filename_prefix]": "b"})
    assert [child["batch"]["index"] for child in found] == [3, 9]
    assert children_of(api, batch["id"], status="succeeded") == []
    assert len(children_of(api, batch["id"], status="queued", limit=5)) == 12


def found_at(api: Api, batch_id: str, **filters: str) -> list[int]:
    """The places of the jobs that a filter finds."""
    asked = {f"varied[{name}]": value for name, value in filters.items()}
    return [child["batch"]["index"] for child in children_of(api, batch_id, **asked)]


def put_children(api: Api, values: list[Any], name: str = "n") -> str:
    """A batch whose jobs were made with these values, which no graph may take."""
    batch = submit_batch(api, {"1.color": f"1..{len(values)}"})
    for child, value in zip(children_of(api, batch["id"]), values, strict=True):
        set_columns(api.ledger, child["id"], varied={name: value})
    return str(batch["id"])


def test_numbers_that_were_varied_are_found_by_their_value_to_the_last_digit(api: Api) -> None:
    large = [2**53, 2**53 + 1, 2**53 + 2, 2**64 - 1, 2**64 - 2]
    values = [*large, 1, 1.0, 1.5, "1", True, "true", 0, -0.0, 1e20, 10**20, 0.1, "a"]
    batch = put_children(api, values)
    for number in large:
        assert found_at(api, batch, n=str(number)) == [large.index(number)], number
    assert found_at(api, batch, n="1") == [5, 6, 8]
    assert found_at(api, batch, n="1.0") == [5, 6], "as text it is another one"
    assert found_at(api, batch, n="1.50") == [7]
    assert found_at(api, batch, n="true") == [9, 10]
    assert found_at(api, batch, n="-0") == found_at(api, batch, n="0.0") == [11, 12]
    assert found_at(api, batch, n="1e20") == found_at(api, batch, n=str(10**20)) == [13, 14]
    assert found_at(api, batch, n="0.1") == [15]
    assert found_at(api, batch, n="a") == [16]
    assert found_at(api, batch, n="b") == []


def test_names_that_no_path_of_sqlites_can_say(api: Api) -> None:
    name = 'a"b.c[0]$'
    batch = put_children(api, [1, 1.0, "1", True, 2**64 - 1, "x"], name=name)
    assert found_at(api, batch, **{name: "1"}) == [0, 1, 2]
    assert found_at(api, batch, **{name: "true"}) == [3]
    assert found_at(api, batch, **{name: str(2**64 - 1)}) == [4]
    assert found_at(api, batch, **{name: "x"}) == [5]


def test_a_name_that_was_not_varied_is_refused_with_those_that_were(api: Api) -> None:
    path = f"{BATCHES}/{submit_batch(api, {'1.color': '1..2', '1.width': [64]})['id']}/jobs"
    for parameters, told in (
        ({"varied[1.colour]": "1"}, "varied['1.colour']: nothing of this name was varied in the batch; there are: "),
        ({"varied[1.colour]": "1"}, "1.color, 1.width"),
        ({"varied[1.color]": "1", "varied[]": "1"}, "varied['']"),
        ({"varied": "1"}, "varied[name]=value"),
        ({"varied[1.color": "1"}, "varied[name]=value"),
        ({"varied[1.color]": "\0"}, "NUL"),
    ):
        answer = api.get(path, params=parameters)
        assert (answer.status_code, told in answer.json()["error"]["message"]) == (400, True), answer.text
    added = api.post(path, {"over": {"2.filename_prefix": ["a"]}})
    assert added.status_code == 201, added.text
    assert len(api.get(path, params={"varied[2.filename_prefix]": "a"}).json()["jobs"]) == 1, "it was added later"


def test_batches_are_listed_newest_first_by_label_and_status(api: Api) -> None:
    ids = [submit_batch(api, {"1.color": [number]}, label="listed")["id"] for number in range(3)]
    first = api.get(BATCHES, params={"label": "listed", "limit": 2}).json()
    rest = api.get(BATCHES, params={"label": "listed", "limit": 2, "cursor": first["next_cursor"]}).json()
    assert [each["id"] for each in first["batches"] + rest["batches"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert api.get(BATCHES, params={"label": "listed", "status": "completed"}).json()["batches"] == []
    assert len(api.get(BATCHES, params={"label": "listed", "status": "running,paused"}).json()["batches"]) == 3
    assert api.get(BATCHES, params={"status": "lost"}).status_code == 400


def test_the_same_request_again_gets_the_batch_it_has(api: Api) -> None:
    first = submit_batch(api, {"1.color": "1..5"}, key="once")
    before = recorded(api)
    again = submit_batch(api, {"1.color": "1..5"}, key="once")
    assert again["id"] == first["id"]
    other = api.post(BATCHES, {"workflow": GRAPH, "over": {"1.color": "1..6"}}, headers={"Idempotency-Key": "once"})
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reuse"
    assert recorded(api) == before


def test_jobs_are_added_with_what_the_batch_is_made_of(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..2"})
    path, key = f"{BATCHES}/{batch['id']}/jobs", {"Idempotency-Key": "more"}
    for _ in range(2):
        answer = api.post(path, {"over": {"1.color": "3..4"}}, headers=key)
        assert answer.status_code == 201, answer.text
        assert answer.json()["total"] == 4
    children = children_of(api, batch["id"])
    assert [child["batch"]["varied"]["1.color"] for child in children] == [1, 2, 3, 4]
    assert [child["batch"]["index"] for child in children] == [0, 1, 2, 3]
    too_many = api.post(path, {"over": {"1.color": "1..9997"}})
    assert (too_many.status_code, "at most 10000" in too_many.text) == (422, True)


TOO_LONG = "x" * 20_001
BAD: list[tuple[dict[str, Any], str]] = [
    ({"over": {}}, "over is empty"),
    ({"over": {"1.color": []}}, "over.1.color is empty"),
    ({"over": {"1.colour": [1]}}, "1.color"),
    ({"over": {"9.color": [1]}}, "no node of the workflow has this input"),
    ({"over": {"1.color": "1..10001"}}, "10001 jobs"),
    ({"over": {"1.color": {"from": 1, "to": 1e12}}}, "at most 10000"),
    ({"over": {"1.color": {"from": 0, "to": 1, "step": 1e-300}}}, "at most 10000"),
    ({"over": {"1.color": {"from": 1, "to": 1e300}}}, "out of range"),
    ({"over": {"1.color": "1..1000", "1.width": "16..1000"}}, "jobs ("),
    ({"over": {"1.color": [1, 2], "1.width": [64]}, "mode": "zip"}, "over.1.color has 2, over.1.width has 1"),
    ({"over": {"1.color": {"from": 1, "to": 9, "step": 0}}}, "step"),
    ({"over": {"1.color": {"from": 1, "to": 9, "step": -1}}}, "step"),
    ({"over": {"1.color": {"from": 1}}}, "from and to"),
    ({"over": {"1.color": {"from": True, "to": 3}}}, "over.1.color.from"),
    ({"over": {"1.color": "all of them"}}, "over.1.color"),
    ({"over": {"1.color": [None]}}, "over.1.color[0]"),
    ({"over": {"1.color": [[1]]}}, "over.1.color[0]"),
    ({"over": {"2.filename_prefix": ["a", TOO_LONG]}}, "over.2.filename_prefix[1]"),
    ({"over": {"1.width": [64, "wide"]}}, "Job 1 (1.width='wide')"),
    ({"over": {"1.width": [64, 1_000_000]}}, "Job 1 (1.width=1000000)"),
    ({"over": {"1.width": "1..20000..100"}}, "Job"),
    ({"over": {"1.color": [1]}, "jobs": [{}]}, "either over or jobs"),
    ({"jobs": []}, "jobs is empty"),
    ({"jobs": [{}] * 10_001}, "jobs must be a list of at most 10000 entries, not a list of 10001."),
    ({"over": {"1.color": [1]}, "prioritty": 3}, "Unknown field 'prioritty': most like it is priority; there are: "),
    ({"over": {"1.color": [1]}, "prioritty": None}, "most like it is priority"),
    ({"over": {"1.color": [1]}, "max_runing": 3}, "most like it is max_running"),
    ({"over": {"1.color": [1]}, "webhook_url": "https://a.example"}, "it is called webhook.url here"),
    ({"jobs": [{"paramters": {"a": 1}}]}, "Unknown field 'jobs.0.paramters': most like it is parameters"),
    ({"over": {"2.filename_prefix": ["a", "b\0"]}}, "over.2.filename_prefix[1] must not contain NUL"),
    ({"over": {"2.filename\0prefix": ["a"]}}, "must not contain NUL"),
    ({"over": {"1.color": [1]}, "label": "a\0"}, "label must be 1 to 128 characters, and none that controls"),
    ({"jobs": [{"template": "text2image", "parameters": {"prompt": "a\0"}}]}, "parameters.prompt must not contain NUL"),
    ({"jobs": [{"graph": {"1": 2}}]}, "graph"),
    ({}, "Give over"),
    ({"over": {"1.color": [1]}, "template": "text2image"}, "either workflow or template"),
    ({"over": {"1.color": [1]}, "label": "x" * 129}, "label"),
    ({"over": {"1.color": [1]}, "max_running": 0}, "max_running"),
    (
        {"over": {"1.color": [1]}, "webhook": {"url": "https://a.example", "events": ["job.completed"]}},
        "webhook.events",
    ),
]


@pytest.mark.parametrize(("fields", "told"), BAD)
def test_what_is_wrong_is_named_and_nothing_is_recorded(api: Api, fields: dict[str, Any], told: str) -> None:
    before = recorded(api)
    answer = api.post(BATCHES, {"workflow": GRAPH, **fields})
    assert answer.status_code == 422, answer.text
    assert told in answer.text
    assert recorded(api) == before


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"sead": [1]}, "seed"),
        ({"seed": [1], "Seed": [2]}, "twice"),
        ({"steps": [1]}, "both in parameters and in over"),
        ({"seed": [1, -4]}, "Job 1 (seed=-4)"),
    ],
)
def test_what_is_wrong_with_parameters_is_named(api: Api, over: dict[str, Any], told: str) -> None:
    body = {"template": "text2image", "parameters": {"prompt": "x", "steps": 2}, "over": over}
    answer = api.post(BATCHES, body)
    assert (answer.status_code, told in answer.text) == (422, True), answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(api: Api, number: str) -> None:
    text = json.dumps({"workflow": GRAPH, "over": {"1.color": [1]}}).replace('"1.color": [1]', f'"1.color": [{number}]')
    answer = api.post(BATCHES, data=text, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_all_jobs_count_for_the_queue_at_once(api: Api) -> None:
    submit_batch(api, {"1.color": "1..1200"})
    before = recorded(api)
    answer = api.post(BATCHES, {"workflow": GRAPH, "over": {"1.color": "1..900"}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert recorded(api) == before


def test_what_is_misspelt_in_other_bodies_is_named_and_changes_nothing(api: Api) -> None:
    batch = submit_batch(api, {"1.color": "1..2"})
    path = f"{BATCHES}/{batch['id']}"
    for way, body, told in (
        ("jobs", {"ovre": {"1.color": [3]}}, "Unknown field 'ovre': most like it is over; there are: "),
        ("jobs", {"over": {"1.color": [3]}, "label": "x"}, "Unknown field 'label'; there are: "),
        ("retry", {"status": ["failed"]}, "Unknown field 'status': most like it is statuses"),
        ("retry", {"statuses": []}, "statuses must be a list that is not empty, not an empty list."),
    ):
        answer = api.post(f"{path}/{way}", body)
        assert (answer.status_code, told in answer.text) == (422, True), answer.text
    assert batch_of(api, batch["id"])["total"] == 2


def test_an_error_with_a_nul_is_told_of(api: Api) -> None:
    batch = submit_batch(api, {"1.color": [1]})
    [child] = children_of(api, batch["id"])
    api.ledger.claims.fail(api.worker.claim(child["id"]), JobError(code="node_execution_error", message="a\0b"))
    [group] = batch_of(api, batch["id"])["errors"]
    assert (group["message"], group["count"]) == ("a\ufffdb", 1)


def test_an_unknown_batch_is_not_found(api: Api) -> None:
    for path in ("", "/jobs"):
        assert api.get(f"{BATCHES}/11111111-2222-3333-4444-555555555555{path}").status_code == 404
    for step in ("cancel", "pause", "resume", "retry"):
        assert api.post(f"{BATCHES}/nothing/{step}").status_code == 404
    assert batch_of(api, submit_batch(api, {"1.color": [1]})["id"])["total"] == 1
