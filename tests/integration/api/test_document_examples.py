"""The requests that clients of the two older contracts have always sent, as they send them, are understood."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from core.records.job import Job
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import secrets_of
from tests.simulator_process import simulator

S3 = {
    "access_key_id": "your-s3-access-key",
    "secret_access_key": "your-s3-secret-access-key",
    "endpoint_url": "https://my-endpoint.backblaze.com",
    "bucket_name": "your-bucket",
    "region": "us-east-1",
}
WEBHOOK = {"url": "https://example.com/hook", "extra_params": {"custom_field": "value"}}
LANDSCAPE = {"prompt": "a beautiful landscape", "width": 1024, "height": 1024, "steps": 20, "seed": 123456789}
PROMPT = {"prompt": 'a "quoted" cat', "width": 512, "height": 768, "steps": 12, "seed": 2**53 + 1}
#: A lone sampler: what it links to is not there.
DANGLING = {
    "3": {
        "inputs": {
            "seed": 42,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
        "class_type": "KSampler",
    }
}
#: A default workflow with the places such files have, around the sampler of newer models.
OPEN_GRAPH: dict[str, Any] = {
    "5": {
        "inputs": {"width": "{{WIDTH}}", "height": "{{HEIGHT}}", "batch_size": 1},
        "class_type": "EmptySD3LatentImage",
    },
    "6": {
        "inputs": {"text": "{{PROMPT}}", "clip": ["11", 1]},
        "class_type": "CLIPTextEncode",
        "_meta": {"title": "CLIP Text Encode (Prompt)"},
    },
    "8": {"inputs": {"samples": ["13", 0], "vae": ["11", 2]}, "class_type": "VAEDecode"},
    "9": {"inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}, "class_type": "SaveImage"},
    "11": {
        "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
        "class_type": "CheckpointLoaderSimple",
    },
    "13": {
        "inputs": {
            "noise": ["25", 0],
            "guider": ["22", 0],
            "sampler": ["16", 0],
            "sigmas": ["17", 0],
            "latent_image": ["5", 0],
        },
        "class_type": "SamplerCustomAdvanced",
    },
    "16": {"inputs": {"sampler_name": "euler"}, "class_type": "KSamplerSelect"},
    "17": {
        "inputs": {"scheduler": "simple", "steps": "{{STEPS}}", "denoise": 1, "model": ["11", 0]},
        "class_type": "BasicScheduler",
        "_meta": {"title": "BasicScheduler"},
    },
    "22": {"inputs": {"model": ["11", 0], "conditioning": ["6", 0]}, "class_type": "BasicGuider"},
    "25": {"inputs": {"noise_seed": "{{SEED}}"}, "class_type": "RandomNoise", "_meta": {"title": "RandomNoise"}},
}
DEFAULT_FILE = {
    "input": {
        "handler": "RawWorkflow",
        "aws_access_key_id": "your-s3-access-key",
        "aws_secret_access_key": "your-s3-secret-access-key",
        "aws_endpoint_url": "https://my-endpoint.backblaze.com",
        "aws_bucket_name": "your-bucket",
        "webhook_url": "your-webhook-url",
        "webhook_extra_params": {},
        "workflow_json": OPEN_GRAPH,
    }
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        return comfyui.get("/object_info")


@pytest.fixture(scope="module")
def api(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server whose default workflow is a file of the operator's, in the form such files have."""
    folder = tmp_path_factory.mktemp("workflows")
    (folder / "house-style.json").write_text(json.dumps(DEFAULT_FILE))
    settings = settings_for(tmp_path_factory.mktemp("api"), workflows_dir=folder, comfy_model="house-style")
    with running_api(settings) as running:
        running.worker.come_up(object_info=nodes)
        yield running


@pytest.fixture(autouse=True)
def empty_queue(api: Api) -> Iterator[None]:
    yield
    for job in api.ledger.jobs.page(statuses=["queued"], limit=1000):
        api.ledger.jobs.cancel(job.id)


def accepted(api: Api, body: dict[str, Any], path: str = "/generate") -> Job:
    """The job of a request that is taken."""
    answer = api.post(path, body)
    assert answer.status_code == 202, answer.text
    return api.ledger.jobs.get_by_request_id(answer.json()["id"])


def graph_of(api: Api, job: Job) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads(api.ledger.jobs.graph(job.id))
    return graph


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """What must stand in the default workflow's open places."""
    return {
        "5": {"width": values["width"], "height": values["height"]},
        "6": {"text": values["prompt"]},
        "17": {"steps": values["steps"]},
        "25": {"noise_seed": values["seed"]},
    }


def holds(graph: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(wanted[node_id].items() <= graph[node_id]["inputs"].items() for node_id in wanted)


def answered(api: Api, path: str, body: dict[str, Any]) -> requests.Response:
    """The answer of a route that waits, to a job that ends well."""
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(api.post, path, body)
        api.worker.run_next(b"pixels")
        return answering.result()


def test_raw_workflow_with_modifications_fills_the_default_workflow(api: Api) -> None:
    request = {"modifier": "RawWorkflow", "modifications": LANDSCAPE, "s3": S3, "webhook": WEBHOOK}

    job = accepted(api, {"input": {"request_id": "landscape-1", **request}, "expected_time": 30.0})

    assert (job.request_id, job.expected_time_s) == ("landscape-1", 30.0)
    assert (job.template, job.parameters) == ("house-style", LANDSCAPE)
    assert holds(graph_of(api, job), filled(LANDSCAPE))
    assert api.get("/result/landscape-1").json()["parameters"] == LANDSCAPE


def test_text_to_image_with_a_modifier(api: Api) -> None:
    values = {"prompt": "a cat sitting on a windowsill", "width": 512, "height": 512, "steps": 20, "seed": 42}

    answer = answered(
        api, "/generate/sync", {"input": {"modifier": "Text2Image", "modifications": values}, "expected_time": 25.0}
    )

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    job = api.ledger.jobs.get_by_request_id(answer.json()["id"])
    assert job.parameters is not None
    assert values.items() <= job.parameters.items()
    inputs = [node["inputs"] for node in graph_of(api, job).values()]
    assert any(each.get("seed") == 42 and each.get("steps") == 20 for each in inputs)


def test_a_custom_workflow(api: Api) -> None:
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}},
    }

    job = accepted(api, {"input": {"request_id": "graph-1", "workflow_json": graph, "s3": S3, "webhook": WEBHOOK}})

    assert graph_of(api, job) == graph
    assert job.expected_time_s == 46.0


def test_a_graph_that_links_to_missing_nodes_is_refused_in_comfyuis_words(api: Api) -> None:
    body = {"input": {"request_id": "67890", "workflow_json": DANGLING}, "expected_time": 45.0}

    for path in ("/generate", "/generate/sync", "/generate/stream"):
        answer = api.post(path, body)
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error["code"] == "invalid_workflow"
        assert error["details"]["node_errors"] or "output" in error["message"]
    assert api.get("/result/67890").status_code == 404


def test_a_graph_that_links_to_missing_nodes_beside_an_output_names_each_link(api: Api) -> None:
    graph = {
        **DANGLING,
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "a"}},
    }

    error = api.post("/generate/sync", {"input": {"workflow_json": graph}}).json()["error"]

    assert error["code"] == "invalid_workflow"
    assert {"3", "8"} & set(error["details"]["node_errors"])


def test_the_s3_block_becomes_a_target_and_a_sealed_secret(api: Api) -> None:
    job = accepted(api, {"input": {"modifier": "RawWorkflow", "modifications": LANDSCAPE, "s3": S3}})

    target = job.output_options.bucket
    assert target is not None
    assert (target.endpoint_url, target.bucket_name, target.region) == (
        S3["endpoint_url"],
        S3["bucket_name"],
        S3["region"],
    )
    assert S3["secret_access_key"] not in repr(job)
    sealed = secrets_of(api.ledger, job.id)["s3"]
    assert (sealed["access_key_id"], sealed["secret_access_key"]) == (S3["access_key_id"], S3["secret_access_key"])


def test_the_webhook_block_is_kept(api: Api) -> None:
    job = accepted(api, {"input": {"modifier": "RawWorkflow", "modifications": LANDSCAPE, "webhook": WEBHOOK}})

    assert job.webhook is not None
    assert (job.webhook.url, job.webhook.extra_params) == (WEBHOOK["url"], WEBHOOK["extra_params"])


def test_a_placeholder_of_a_document_is_no_webhook(api: Api) -> None:
    webhook = {**WEBHOOK, "url": "your-webhook-url"}
    answer = api.post(
        "/generate", {"input": {"modifier": "RawWorkflow", "modifications": LANDSCAPE, "webhook": webhook}}
    )

    assert answer.status_code == 422
    assert "webhook.url" in answer.json()["detail"]


def test_examples_with_comments_are_no_json(api: Api) -> None:
    body = b'{"input": {"request_id": "a"  // optional\n}}'

    answer = api.post("/generate/sync", data=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("envelope", [False, True])
def test_a_prompt_fills_the_default_workflow(api: Api, envelope: bool) -> None:
    body = {"auth_data": {"signature": "s", "cost": 400}, "payload": PROMPT} if envelope else PROMPT

    answer = answered(api, "/prompt", body)

    assert answer.status_code == 200, answer.text
    job = api.ledger.jobs.get_by_request_id(answer.json()["id"])
    assert holds(graph_of(api, job), filled(PROMPT)), "each value with its own type, quotes and all"
    assert job.parameters == PROMPT


@pytest.mark.parametrize("name", PROMPT)
def test_a_prompt_without_one_of_its_values(api: Api, name: str) -> None:
    answer = api.post("/prompt", {key: value for key, value in PROMPT.items() if key != name})

    assert (answer.status_code, answer.json()) == (422, {name: "missing parameter"})


@pytest.mark.parametrize("route", ["/custom_workflow", "/custom-workflow"])
def test_a_custom_workflow_in_the_routers_envelope(api: Api, route: str) -> None:
    payload = {"custom_fields": {"steps": 20, "width": 512, "height": 512}, "workflow": OPEN_GRAPH}
    payload["custom_fields"] |= {"prompt": "a", "seed": 1}

    job = accepted(api, {"auth_data": {"signature": "s"}, "payload": payload}, route)

    assert graph_of(api, job)["17"]["inputs"]["steps"] == 20
    status = api.get(f"/task/{job.id}").json()
    assert (status["id"], status["status"]) == (job.id, "pending")


def test_the_environments_blocks_count_where_a_request_brings_none(nodes: Any, tmp_path: Path) -> None:
    settings = settings_for(
        tmp_path,
        s3_access_key_id="operators-key",
        s3_secret_access_key="operators-secret",
        s3_bucket_name="operators-bucket",
        s3_endpoint_url="https://s3.amazonaws.com",
        s3_region="us-east-1",
        webhook_url="https://operator.example/",
        webhook_timeout_s=30,
        webhook_secret="operators-webhook-secret",
    )
    body = {"input": {"modifier": "Text2Image", "modifications": {"prompt": "a"}}}
    blank = {"input": {**body["input"], "s3": dict.fromkeys(S3, ""), "webhook": {"url": "", "extra_params": {}}}}
    own = {"input": {**body["input"], "s3": S3, "webhook": WEBHOOK}}
    with running_api(settings) as api:
        api.worker.come_up(object_info=nodes)
        for defaulted in (body, blank):
            job = accepted(api, defaulted)
            bucket = job.output_options.bucket
            assert bucket is not None
            assert job.webhook is not None
            assert (bucket.bucket_name, bucket.origin) == ("operators-bucket", "environment")
            assert (job.webhook.url, job.webhook.origin) == ("https://operator.example/", "environment")
            assert secrets_of(api.ledger, job.id) == {}, "the operator's are taken from the settings when needed"
        mine = accepted(api, own)
        bucket = mine.output_options.bucket
        assert bucket is not None
        assert (bucket.bucket_name, bucket.origin) == ("your-bucket", "request")
        assert "webhook_secret" not in secrets_of(api.ledger, mine.id), "nothing of the operator's is mixed in"
        assert "operators" not in f"{mine} {secrets_of(api.ledger, mine.id)}"
