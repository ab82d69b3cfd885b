"""What agents do through the official MCP client, in both eras of the protocol: tools, tenants, scopes, refusals."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from PIL import Image

from core.records.access import Limits
from core.records.job_error import JobError
from tests.agent_client import ERAS, call, made, pictures, refusal, said, with_client
from tests.integration.api.comfy_v2.test_assets import png
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.simulator_process import simulator

OWN = ("submit", "read", "cancel")
OPERATOR = "root-key"
WIDE = (1600, 400)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-speed", "0") as comfyui:
        nodes = comfyui.get("/object_info")
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=(OPERATOR,))) as running:
        running.worker.come_up(object_info=nodes)
        yield running


@pytest.fixture(autouse=True)
def _heard_of(api: Api) -> None:
    api.worker.beat()


def key_of(api: Api, tenant: str, *scopes: str, limits: Limits | None = None) -> str:
    """A new key of a tenant, which may be new as well."""
    if tenant not in [each.name for each in api.ledger.tenants.all()]:
        api.ledger.tenants.create(tenant)
    return api.ledger.keys.create(tenant, name="agent", scopes=scopes or OWN, limits=limits or Limits())[1]


@pytest.fixture(scope="module")
def acme(api: Api) -> str:
    return key_of(api, "acme")


@pytest.fixture(scope="module")
def zeta(api: Api) -> str:
    return key_of(api, "zeta")


def wide_picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", WIDE, (200, 30, 30)).save(target, "PNG")
    return target.getvalue()


def submitted(api: Api, key: str, **arguments: Any) -> str:
    job: dict[str, Any] = made(call(api.url, key, "submit_workflow", {"workflow": GRAPH, **arguments}))
    return str(job["id"])


@pytest.mark.parametrize("era", ERAS)
def test_from_a_template_to_its_picture(api: Api, acme: str, era: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async def work(client: Client) -> None:
        templates = made(await client.call_tool("list_templates", {"name": "sd3"}))["templates"]
        assert [each["name"] for each in templates] == ["sd3"]
        assert "prompt" in templates[0]["parameters"]["properties"]
        arguments = {"template": "sd3", "parameters": {"prompt": "a harbour"}, "label": f"of-{era}"}
        job = made(await client.call_tool("submit_template", arguments))
        assert (job["status"], job["template"], job["parameters"]["prompt"]) == ("queued", "sd3", "a harbour")
        worker = threading.Timer(0.7, lambda: api.worker.run(job["id"], wide_picture()))
        worker.start()
        ended = made(await client.call_tool("wait_for_job", {"job_id": job["id"]}, progress_callback=hear))
        worker.join()
        assert (ended["status"], ended["has_ended"]) == ("succeeded", True)
        shown = await client.call_tool("show_outputs", {"job_id": job["id"], "edge_px": 256})
        [picture] = pictures(shown)
        assert picture.mime_type == "image/jpeg"
        assert Image.open(io.BytesIO(base64.b64decode(picture.data))).size == (256, 64)
        [output] = made(shown)["shown"]
        assert api.session.get(output["url"], timeout=10).content == wide_picture()
        assert made(await client.call_tool("list_jobs", {"label": f"of-{era}"}))["jobs"][0]["id"] == job["id"]

    with_client(api.url, acme, work, era=era)
    assert heard
    assert [progress for progress, _ in heard] == sorted({progress for progress, _ in heard})
    assert all(message for _, message in heard)


@pytest.mark.parametrize("era", ERAS)
def test_tools_are_listed_with_schemas_by_the_scopes_of_the_key(api: Api, era: str) -> None:
    async def names(client: Client) -> dict[str, Any]:
        listed = await client.list_tools()
        assert all(tool.output_schema and tool.input_schema["type"] == "object" for tool in listed.tools)
        assert all(tool.description and tool.title for tool in listed.tools)
        return {tool.name: tool for tool in listed.tools}

    all_tools = with_client(api.url, OPERATOR, names, era=era)
    reading = with_client(api.url, key_of(api, "readers", "read"), names, era=era)

    assert {"submit_batch", "list_gpus", "cancel_job"} <= set(all_tools)
    assert set(all_tools) - set(reading) == {
        *("submit_template", "submit_workflow", "submit_batch", "upload_file"),
        *("list_gpus", "cancel_job", "cancel_batch"),
    }
    assert all(tool.annotations.read_only_hint for tool in reading.values())


def test_a_key_without_the_scope_is_told_which(api: Api) -> None:
    key = key_of(api, "readers", "read")

    assert "missing_scope" in refusal(call(api.url, key, "submit_workflow", {"workflow": GRAPH}))
    assert "scope operate" in refusal(call(api.url, key, "list_gpus"))


def test_what_one_tenant_owns_does_not_exist_for_another(api: Api, acme: str, zeta: str) -> None:
    job_id = submitted(api, acme, label="mine")
    batch = made(call(api.url, acme, "submit_batch", {"workflow": GRAPH, "over": {"1.color": "1..2"}}))
    asked = [
        *((tool, {"job_id": job_id}) for tool in ("get_job", "wait_for_job", "show_outputs")),
        *((tool, {"batch_id": batch["id"]}) for tool in ("get_batch", "wait_for_batch", "show_batch", "list_jobs")),
    ]
    for tool, arguments in [*asked, ("cancel_job", {"job_id": job_id}), ("cancel_batch", {"batch_id": batch["id"]})]:
        assert "not_found" in refusal(call(api.url, zeta, tool, arguments)), tool
    assert made(call(api.url, zeta, "list_jobs", {"label": "mine"}))["jobs"] == []
    assert made(call(api.url, zeta, "queue_status"))["jobs"].get("queued", 0) == 0
    assert made(call(api.url, acme, "get_job", {"job_id": job_id}))["status"] == "queued"

    assert made(call(api.url, acme, "cancel_job", {"job_id": job_id}))["status"] == "canceled"
    assert made(call(api.url, acme, "cancel_batch", {"batch_id": batch["id"]}))["counts"]["canceled"] == 2


def test_jobs_are_those_of_the_other_contracts(api: Api, acme: str) -> None:
    job_id = submitted(api, acme, priority=3)

    seen = api.get(f"/api/v2/jobs/{job_id}", headers={"Authorization": f"Bearer {OPERATOR}"}).json()
    assert (seen["tenant"], seen["priority"], seen["status"]) == ("acme", 3, "queued")
    assert job_id in api.publisher.turns
    made(call(api.url, acme, "cancel_job", {"job_id": job_id}))


def test_the_same_submission_again_is_the_same_job(api: Api, acme: str, zeta: str) -> None:
    first = submitted(api, acme, idempotency_key="mine")

    again = call(api.url, acme, "submit_workflow", {"workflow": GRAPH, "idempotency_key": "mine"})
    assert made(again)["id"] == first
    assert "before" in said(again)
    other = call(api.url, acme, "submit_workflow", {"workflow": GRAPH, "idempotency_key": "mine", "label": "x"})
    assert first in refusal(other) or "request" in refusal(other)
    assert submitted(api, zeta, idempotency_key="mine") != first
    many = {"workflow": GRAPH, "over": {"1.color": "1..2"}, "idempotency_key": "mine"}
    assert (
        made(call(api.url, acme, "submit_batch", many))["id"] == made(call(api.url, acme, "submit_batch", many))["id"]
    )


def test_a_wait_that_is_over_before_the_job_says_to_ask_again(api: Api, acme: str) -> None:
    job_id = submitted(api, acme)
    batch = made(call(api.url, acme, "submit_batch", {"workflow": GRAPH, "over": {"1.color": "1..2"}}))

    waited = call(api.url, acme, "wait_for_job", {"job_id": job_id, "timeout_s": 0})
    assert made(waited)["has_ended"] is False
    assert made(waited)["queue"]["reason"]
    assert "again" in said(waited)
    waited = call(api.url, acme, "wait_for_batch", {"batch_id": batch["id"], "timeout_s": 0.2})
    assert (made(waited)["has_ended"], made(waited)["counts"]["queued"]) == (False, 2)
    assert "again" in said(waited)


def test_a_batch_is_waited_for_and_seen_on_one_sheet(api: Api, acme: str) -> None:
    batch = made(call(api.url, acme, "submit_batch", {"workflow": GRAPH, "over": {"1.color": "1..3"}}))
    jobs = made(call(api.url, acme, "list_jobs", {"batch_id": batch["id"], "limit": 2}))
    rest = made(call(api.url, acme, "list_jobs", {"batch_id": batch["id"], "cursor": jobs["next_cursor"]}))
    ids = [job["id"] for job in jobs["jobs"] + rest["jobs"]]
    assert (len(ids), rest["next_cursor"]) == (3, None)
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    async def wait(client: Client) -> dict[str, Any]:
        result = await client.call_tool("wait_for_batch", {"batch_id": batch["id"]}, progress_callback=hear)
        return made(result)

    def run_all() -> None:
        for job_id in ids:
            api.worker.run(job_id, png(5))

    worker = threading.Timer(0.5, run_all)
    worker.start()
    ended = with_client(api.url, acme, wait)
    worker.join()

    assert (ended["has_ended"], ended["counts"]["succeeded"], ended["progress"]) == (True, 3, 1.0)
    assert heard == sorted(set(heard))
    sheet = call(api.url, acme, "show_batch", {"batch_id": batch["id"]})
    [picture] = pictures(sheet)
    assert (made(sheet), picture.mime_type) == ({"page": 1, "pages": 1}, "image/webp")
    assert Image.open(io.BytesIO(base64.b64decode(picture.data))).width > 128


def test_an_uploaded_picture_is_an_input(api: Api, acme: str, zeta: str) -> None:
    content = base64.b64encode(png(7)).decode()
    file = made(call(api.url, acme, "upload_file", {"file_name": "room.png", "data_base64": content}))
    assert (file["content_type"], file["size_bytes"]) == ("image/png", len(png(7)))
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": file["id"]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }

    assert made(call(api.url, acme, "submit_workflow", {"workflow": graph}))["status"] == "queued"
    assert refusal(call(api.url, zeta, "submit_workflow", {"workflow": graph}))
    wrong = {"file_name": "room.png", "data_base64": "no base64!"}
    assert "base64" in refusal(call(api.url, acme, "upload_file", wrong))


def test_what_is_no_picture_is_told_with_its_link(api: Api, acme: str) -> None:
    job_id = submitted(api, acme)
    assert "wait_for_job" in refusal(call(api.url, acme, "show_outputs", {"job_id": job_id}))
    api.worker.run(job_id, b"no picture", png(3))

    shown = call(api.url, acme, "show_outputs", {"job_id": job_id, "count": 4})
    assert (len(pictures(shown)), made(shown)["outputs"]) == (1, 2)
    assert ["http" in each for each in made(shown)["not_shown"]] == [True]
    assert "below 2" in refusal(call(api.url, acme, "show_outputs", {"job_id": job_id, "output": 2}))


def test_why_a_job_failed_is_told(api: Api, acme: str) -> None:
    job_id = submitted(api, acme)
    error = JobError(code="node_execution_error", message="boom", node_id="1", class_type="EmptyImage")
    api.ledger.claims.fail(api.worker.claim(job_id), error)

    told = made(call(api.url, acme, "wait_for_job", {"job_id": job_id}))
    assert (told["status"], told["error"]["message"], told["error"]["class_type"]) == ("failed", "boom", "EmptyImage")


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("get_job", {}, "job_id is missing"),
        ("get_job", {"job_id": 7}, "job_id must be text"),
        ("get_job", {"job_id": "x", "jobid": "y"}, "job_id"),
        ("wait_for_job", {"job_id": "x", "timeout_s": 1e9}, "timeout_s must be a number"),
        ("submit_template", {"template": "nothing"}, "sd3"),
        ("submit_template", {"template": "sd3", "parameters": {"prompt": 7}}, "prompt"),
        ("submit_template", {"template": "sd3", "parameters": {"colour": "red"}}, "Unknown parameter"),
        ("submit_workflow", {"workflow": {}}, "no nodes"),
        ("submit_workflow", {"workflow": {"1": {"class_type": "Nothing", "inputs": {}}}}, "Nothing"),
        ("submit_workflow", {"workflow": GRAPH, "webhook": {"url": "http://x"}}, "Unknown field"),
        ("submit_batch", {"workflow": GRAPH, "over": {"9.color": [1]}}, "9.color"),
        ("list_jobs", {"cursor": "%%%"}, "cursor"),
        ("list_jobs", {"status": ["done"]}, "status"),
        ("upload_file", {"file_name": "../x.png", "data_base64": "AAAA"}, "relative path"),
    ],
)
def test_bad_arguments_are_refused_with_what_is_wrong(
    api: Api, acme: str, tool: str, arguments: dict[str, Any], words: str
) -> None:
    assert words in refusal(call(api.url, acme, tool, arguments))


@pytest.mark.parametrize("era", ERAS)
def test_an_unknown_tool_is_an_error_of_the_protocol(api: Api, acme: str, era: str) -> None:
    async def work(client: Client) -> None:
        await client.call_tool("submit_templates", {})

    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the client wraps it in groups
        with_client(api.url, acme, work, era=era)
    assert "submit_template" in str(_within(caught.value))


def test_a_key_for_some_templates_sees_those_alone(api: Api) -> None:
    key = key_of(api, "shops", limits=Limits(templates=("sd3",)))

    assert [each["name"] for each in made(call(api.url, key, "list_templates"))["templates"]] == ["sd3"]
    assert "sd3" in refusal(call(api.url, key, "submit_template", {"template": "flux"}))
    assert "not_allowed" in refusal(call(api.url, key, "submit_workflow", {"workflow": GRAPH}))


def test_operators_see_gpus(api: Api) -> None:
    [gpu] = made(call(api.url, OPERATOR, "list_gpus"))["gpus"]

    assert (gpu["name"], gpu["state"], gpu["is_simulated"]) == ("gpu0@test", "healthy", True)
    assert made(call(api.url, OPERATOR, "queue_status"))["healthy_gpus"] == 1


def _within(error: BaseException) -> BaseException:
    """What a group of errors is about."""
    while not isinstance(error, MCPError) and (inner := getattr(error, "exceptions", None)):
        error = inner[0]
    return error
