"""A job once more: its values, changes of them, its seeds, its files and its secrets, on both databases."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from sqlalchemy import update

from core.ledger.database.tables import uploads
from core.records.access import Limits
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api.test_tenants import LOADING, Client
from tests.integration.api_fixtures import Api, postgres_database, running_api, settings_for
from tests.ledger_moves import secrets_of
from tests.makers import GRAPH
from tests.simulator_process import simulator

HOOK = {"url": "http://127.0.0.1:9/x?token=t", "secret": "s3cret", "headers": {"X-Own": "h"}}
#: The server asks for keys from its start: the first one that a test makes would close it.
KEY = "k-own"


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    if request.param == "sqlite":
        with running_api(settings_for(folder, api_keys=(KEY,), allow_networks=("loopback",))) as running:
            running.worker.come_up(object_info=nodes)
            running.session.headers["Authorization"] = f"Bearer {KEY}"
            yield running
        return
    with (
        postgres_database() as url,
        running_api(settings_for(folder, api_keys=(KEY,), database_url=url, allow_networks=("loopback",))) as running,
    ):
        running.worker.come_up(object_info=nodes)
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        yield running


def rerun(api: Api, job_id: str, body: Any = None, **options: Any) -> dict[str, Any]:
    api.worker.beat()
    answer = api.post(f"/api/v2/jobs/{job_id}/rerun", body, **options)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refused(api: Api, job_id: str, body: Any = None, status: int = 422) -> str:
    api.worker.beat()
    answer = api.post(f"/api/v2/jobs/{job_id}/rerun", body)
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def run_alone(api: Api, job_id: str) -> None:
    """Run a job to its end, whatever else waits: that is cancelled."""
    for job in api.ledger.jobs.page(statuses=["queued"], limit=1000):
        if job.id != job_id:
            api.ledger.jobs.cancel(job.id)
    api.worker.run(job_id, b"pixels")


def graph_of(api: Api, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/api/v2/jobs/{job_id}/workflow").json()["workflow"]
    return found


def templated(api: Api, **parameters: Any) -> dict[str, Any]:
    api.worker.beat()
    answer = api.post("/workflows/sd3", {"parameters": {"prompt": "a lighthouse", **parameters}})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_plain_graph_with_all_that_was_said(api: Api, has_ended: bool) -> None:
    job_id = api.submit(label="mine", metadata={"a": "b"}, priority=7, start_within_s=3600, timeout=77, retention=600)
    if has_ended:
        api.ledger.jobs.cancel(job_id)
    again = rerun(api, job_id)
    assert again["id"] != job_id
    assert (again["rerun_of"], again["status"]) == (job_id, "queued")
    assert (again["label"], again["metadata"], again["priority"]) == ("mine", {"a": "b"}, 7)
    assert (again["start_within_s"], api.ledger.jobs.get(again["id"]).timeout_s) == (3600, 77)
    assert graph_of(api, again["id"]) == graph_of(api, job_id)
    job = api.ledger.jobs.get(again["id"])
    assert job.expires_at_ms - job.created_at_ms == 600_000
    assert api.get(f"/api/v2/jobs/{again['id']}").json()["rerun_of"] == job_id
    api.ledger.jobs.cancel(again["id"])


def test_changes_take_the_place_of_what_was(api: Api) -> None:
    job_id = api.submit(label="mine", priority=7)
    again = rerun(api, job_id, {"inputs": {"1.width": 128}, "label": "other", "priority": 3, "metadata": {"c": "d"}})
    assert (again["label"], again["priority"], again["metadata"]) == ("other", 3, {"c": "d"})
    graph = graph_of(api, again["id"])
    assert graph["1"]["inputs"]["width"] == 128
    assert graph["1"]["inputs"]["height"] == GRAPH["1"]["inputs"]["height"]
    assert graph_of(api, job_id) == GRAPH
    assert "label" not in rerun(api, job_id, {"label": None})


def test_a_place_that_is_none_is_named_with_the_nearest(api: Api) -> None:
    job_id = api.submit()
    before = len(api.ledger.jobs.page(limit=1000))
    assert "inputs.1.widht: no node of the workflow has this input. Most like it are: 1.width" in refused(
        api, job_id, {"inputs": {"1.widht": 5}}
    )
    assert "no node of the workflow" in refused(api, job_id, {"inputs": {"99": 5}})
    assert "no template" in refused(api, job_id, {"parameters": {"steps": 5}})
    assert "same_sed" in refused(api, job_id, {"same_sed": True})
    assert "label" in refused(api, job_id, {"label": "\n"})
    # What no instance would take is refused as in any submission.
    refused(api, job_id, {"inputs": {"1.width": "wide"}})
    assert len(api.ledger.jobs.page(limit=1000)) == before


def test_a_drawn_seed_is_drawn_anew_unless_it_is_kept(api: Api) -> None:
    first = templated(api)
    seed = first["parameters"]["seed"]
    again = rerun(api, first["id"])
    assert again["template"] == "sd3"
    assert again["parameters"]["seed"] != seed
    assert {**again["parameters"], "seed": seed} == first["parameters"]
    assert str(again["parameters"]["seed"]) in json.dumps(graph_of(api, again["id"]))
    assert rerun(api, again["id"])["parameters"]["seed"] != again["parameters"]["seed"], "and once more"
    same = rerun(api, first["id"], {"same_seed": True})
    assert same["parameters"] == first["parameters"]
    assert graph_of(api, same["id"]) == graph_of(api, first["id"])
    assert rerun(api, same["id"])["parameters"]["seed"] != seed, "it was drawn all the same"


def test_a_chosen_seed_stays(api: Api) -> None:
    first = templated(api, seed=42)
    assert rerun(api, first["id"])["parameters"]["seed"] == 42
    chosen = rerun(api, templated(api)["id"], {"parameters": {"SEED": 43}})
    assert chosen["parameters"]["seed"] == 43
    assert rerun(api, chosen["id"])["parameters"]["seed"] == 43


def test_parameters_of_a_template(api: Api) -> None:
    first = templated(api, seed=42)
    again = rerun(api, first["id"], {"parameters": {"prompt": "a harbour"}})
    assert again["parameters"] == {**first["parameters"], "prompt": "a harbour"}
    before, after = (json.dumps(graph_of(api, each["id"])) for each in (first, again))
    assert before.replace("a lighthouse", "a harbour") == after
    assert "nonsense" in refused(api, first["id"], {"parameters": {"nonsense": 1}})


def test_integers_drawn_in_a_graph_are_drawn_anew(api: Api) -> None:
    graph = {**GRAPH, "1": {**GRAPH["1"], "inputs": {**GRAPH["1"]["inputs"], "color": "__RANDOM_INT__"}}}
    for _ in range(8):
        # A colour has fewer values than the integer that is drawn: most draws are refused.
        answer = api.post("/generate", {"input": {"workflow_json": graph}})
        if answer.status_code == 202:
            job_id = answer.json()["id"]
            assert api.ledger.jobs.get(job_id).drawn == ("1.color",)
            return
    assert answer.status_code == 422


def test_files_come_along(api: Api) -> None:
    asset = api.session.post(
        f"{api.url}/api/v2/assets", files={"file": png(5)}, data={"file_path": "room.png"}, timeout=10
    ).json()["id"]
    graph = {**LOADING, "1": {"class_type": "LoadImage", "inputs": {"image": asset}}}
    job_id = api.submit(workflow=graph)
    api.ledger.jobs.cancel(job_id)
    again = rerun(api, job_id)
    old, new = (api.ledger.jobs.get(each).inputs for each in (job_id, again["id"]))
    assert [file.key for file in old] == [file.key for file in new]
    assert job_id in old[0].name
    assert again["id"] in new[0].name
    assert graph_of(api, again["id"])["1"]["inputs"]["image"] == new[0].name

    with api.ledger.database.write() as transaction:
        transaction.connection.execute(update(uploads).where(uploads.c.id == asset).values(expires_at_ms=1))
    words = refused(api, job_id)
    assert "1.image" in words
    assert "room.png" in words
    other = api.session.post(
        f"{api.url}/api/v2/assets", files={"file": png(6)}, data={"file_path": "r.png"}, timeout=10
    ).json()["id"]
    rerun(api, job_id, {"inputs": {"1.image": other}})


def test_a_file_that_came_in_the_request_comes_along(api: Api) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(png(8)).decode()}"
    job_id = api.submit(workflow={**LOADING, "1": {"class_type": "LoadImage", "inputs": {"image": uri}}})
    assert len(api.ledger.jobs.get(rerun(api, job_id)["id"]).inputs) == 1


def test_secrets_that_are_kept_come_along_and_others_are_asked_for(api: Api) -> None:
    job_id = api.submit(webhook=HOOK, extra_data={"api_key_comfy_org": "k-1"})
    again = rerun(api, job_id)
    assert secrets_of(api.ledger, again["id"]) == secrets_of(api.ledger, job_id)
    assert api.ledger.jobs.get(again["id"]).webhook == api.ledger.jobs.get(job_id).webhook

    run_alone(api, job_id)
    words = refused(api, job_id)
    assert "extra_data.api_key_comfy_org" in words
    assert "k-1" not in words
    api.worker.beat()
    given = rerun(api, job_id, {"extra_data": {"api_key_comfy_org": "k-2"}})
    assert secrets_of(api.ledger, given["id"])["api_key_comfy_org"] == "k-2"


def test_a_wiped_webhook_is_given_again_or_left_out(api: Api) -> None:
    job_id = api.submit(webhook=HOOK)
    run_alone(api, job_id)
    with api.ledger.database.write() as transaction:
        transaction.connection.exec_driver_sql(
            f"UPDATE secrets SET sealed = NULL WHERE purpose = 'webhook' AND job_id = '{job_id}'"
        )
    assert "webhook, with its secret and headers" in refused(api, job_id)
    without = rerun(api, job_id, {"webhook": None})
    assert api.ledger.jobs.get(without["id"]).webhook is None
    anew = rerun(api, job_id, {"webhook": {"url": "http://127.0.0.1:9/y", "secret": "other"}})
    assert secrets_of(api.ledger, anew["id"]) == {"webhook_secret": "other"}


def test_a_bucket_whose_keys_are_wiped(api: Api) -> None:
    bucket = {
        "access_key_id": "k",
        "secret_access_key": "s",
        "bucket_name": "b-own",
        "endpoint_url": "http://127.0.0.1:9",
    }
    job_id = api.submit(s3=bucket)
    api.ledger.jobs.cancel(job_id)
    assert "s3, with its keys" in refused(api, job_id)
    assert api.ledger.jobs.get(rerun(api, job_id, {"s3": None})["id"]).output_options.bucket is None
    again = api.ledger.jobs.get(rerun(api, job_id, {"s3": bucket})["id"])
    assert again.output_options == api.ledger.jobs.get(job_id).output_options


def test_a_key_is_good_for_one_rerun(api: Api) -> None:
    job_id = api.submit()
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    again = rerun(api, job_id, {}, headers=headers)
    answer = api.post(f"/api/v2/jobs/{job_id}/rerun", {}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reuse")
    assert answer.json()["error"]["details"]["job_id"] == again["id"]


def test_only_its_tenant_runs_it_once_more(api: Api) -> None:
    acme, globex = Client(api, "re-acme"), Client(api, "re-globex")
    job_id = acme.submitted()

    def asked(client: Client, job: str) -> requests.Response:
        return client.ask("POST", f"/api/v2/jobs/{job}/rerun", json={})

    nobodys = str(uuid.uuid4())
    theirs, none = asked(globex, job_id), asked(globex, nobodys)
    assert theirs.status_code == none.status_code == 404
    assert theirs.text.replace(job_id, nobodys) == none.text
    assert asked(Client(api, "default", "submit", "read", "operate"), job_id).status_code == 403
    assert asked(Client(api, "re-acme", "read"), job_id).status_code == 403
    assert asked(acme, job_id).status_code == 201


def test_a_key_of_templates_changes_no_graph(api: Api) -> None:
    client = Client(api, "re-acme", limits=Limits(templates=("sd3",), max_priority=2))
    made = client.ask("POST", "/workflows/sd3", json={"parameters": {"prompt": "x"}}).json()["id"]
    path = f"/api/v2/jobs/{made}/rerun"
    assert client.ask("POST", path, json={"inputs": {"1.x": 1}}).status_code == 403
    assert client.ask("POST", path, json={"priority": 3}).status_code == 422
    assert client.ask("POST", path, json={"parameters": {"prompt": "y"}}).status_code == 201
    plain = Client(api, "re-acme").submitted()
    assert client.ask("POST", f"/api/v2/jobs/{plain}/rerun", json={}).status_code == 403
