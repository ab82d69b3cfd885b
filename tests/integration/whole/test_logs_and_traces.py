"""One fleet whose logs and traces programs read: the same fields in every process, one trace from request to webhook.

It logs JSON and exports spans to a collector of the test's own; its simulated ComfyUI prints what nodes are given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from core.log_fields import FIELDS
from tests.fleet import Fleet
from tests.receivers import Receiver, receiving
from tests.waiting import until

pytestmark = pytest.mark.slow

#: What logs as told; the broker's log is Valkey's own.
PROCESSES = ("api", "gpu0", "io", "beat")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SECRET = "comfyui-0123456789abcdef"
OPERATOR = {"Authorization": "Bearer operators-key"}
SPANS = {"submit", "wait", "claim", "run", "store", "webhook"}


def says(text: str, *, after_s: float = 0.02, times: int = 1, seconds: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """A graph whose node prints a text a moment after the prompt began; then it works for so long."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": seed}},
        "2": {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": after_s, "steps": 1}},
        "3": {"class_type": "T_Say", "inputs": {"image": ["2", 0], "text": text, "times": times}},
        "4": {"class_type": "SimulatedWork", "inputs": {"image": ["3", 0], "seconds": seconds, "steps": 10}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def fleet(collector: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"log_format": "json", "api_keys": "operators-key", "allow_networks": "loopback"}
    settings |= {"simulated_gpus": "1", "simulator_args": "--simulate-test-nodes", "reconcile_s": "1"}
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with Fleet(tmp_path_factory.mktemp("logged"), **settings).with_variables(**variables) as fleet:
        fleet.start("broker", "api", "gpu0", "io", "beat")
        until(lambda: is_ready(fleet), timeout_s=60, what="a healthy GPU")
        yield fleet


def is_ready(fleet: Fleet) -> bool:
    """Whether the API says, to its operator, that a GPU is healthy."""
    try:
        answer = requests.get(f"{fleet.base_url}/ready", headers=OPERATOR, timeout=5)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return answer.ok and [each["state"] for each in answer.json()["instances"]] == ["healthy"]


def post(fleet: Fleet, body: Mapping[str, Any], key: str = "operators-key", **headers: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}", **headers}
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json=body, headers=headers, timeout=10)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get(fleet: Fleet, path: str, key: str = "operators-key") -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{fleet.base_url}/api/v2/jobs/{path}", headers=headers, timeout=10)


def ended(fleet: Fleet, job_id: str, key: str = "operators-key") -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job: dict[str, Any] = get(fleet, job_id, key).json()
        return job if job["status"] in ("succeeded", "failed") else None

    found: dict[str, Any] = until(look, timeout_s=30, what=f"the end of {job_id}")
    return found


def printed(fleet: Fleet, job_id: str, key: str = "operators-key") -> dict[str, Any]:
    """All that ComfyUI printed, once nothing follows."""

    def look() -> dict[str, Any] | None:
        answer = get(fleet, f"{job_id}/logs", key)
        return answer.json() if answer.status_code == 200 and answer.json()["complete"] else None

    found: dict[str, Any] = until(look, timeout_s=15, what=f"what {job_id} printed")
    return found


def tenants_key(fleet: Fleet, name: str) -> str:
    """A key of a new tenant."""
    made = requests.post(f"{fleet.base_url}/api/v2/tenants", json={"name": name}, headers=OPERATOR, timeout=10)
    assert made.ok, made.text
    body = {"name": name, "tenant": name, "scopes": ["submit", "read"]}
    answer = requests.post(f"{fleet.base_url}/api/v2/keys", json=body, headers=OPERATOR, timeout=10)
    assert answer.ok, answer.text
    key: str = answer.json()["secret"]
    return key


def lines(fleet: Fleet, process: str) -> list[dict[str, Any]]:
    """What a process has logged; fails at a line that is no JSON."""
    return [json.loads(line) for line in fleet.log(process).splitlines()]


def spans(collector: Receiver, trace_id: str) -> list[Any]:
    """The spans of a trace that were exported so far, each with the process it is of."""
    found = []
    for received in collector.received:
        assert received.path == "/v1/traces"
        message = ExportTraceServiceRequest.FromString(received.content)
        for group in message.resource_spans:
            names = {each.key: each.value.string_value for each in group.resource.attributes}
            assert names["service.name"] == "comfyline"
            own = [span for scope in group.scope_spans for span in scope.spans]
            found += [(names["service.instance.id"], span) for span in own if span.trace_id.hex() == trace_id]
    return found


def test_a_request_is_one_trace_from_its_submission_to_its_webhook(
    fleet: Fleet, collector: Receiver, receiver: Receiver
) -> None:
    body = {"workflow": says("hello"), "webhook": {"url": f"{receiver.url}/hook"}, "convert_output": {"format": "webp"}}
    job = post(fleet, body, traceparent=TRACEPARENT)
    assert job["trace_id"] == TRACE
    assert ended(fleet, job["id"])["trace_id"] == TRACE

    hook = until(lambda: receiver.received, timeout_s=15, what="the webhook")[0]
    assert hook.headers["traceparent"].split("-")[1] == TRACE

    def names() -> set[str]:
        return {span.name for _, span in spans(collector, TRACE)}

    until(lambda: names() >= SPANS, timeout_s=15, what="all spans")
    found = spans(collector, TRACE)
    by_name = {span.name: (process, span) for process, span in found}
    assert set(by_name) == SPANS
    assert by_name["submit"][1].parent_span_id.hex() == "00f067aa0ba902b7"
    submitted = by_name["submit"][1].span_id
    assert {span.parent_span_id for name, (_, span) in by_name.items() if name != "submit"} == {submitted}
    assert by_name["submit"][0] == "api"
    assert by_name["run"][0].startswith("gpu0@")
    assert by_name["webhook"][0].startswith("io@")
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 0 for _, span in found)
    order = [by_name[name][1].start_time_unix_nano for name in ("submit", "wait", "claim", "run", "store", "webhook")]
    assert order == sorted(order)
    told = {each.key: each.value for each in by_name["run"][1].attributes}
    assert told["comfyline.job_id"].string_value == job["id"]
    assert by_name["webhook"][1].span_id.hex() == hook.headers["traceparent"].split("-")[2]


@pytest.mark.parametrize("sent", ["", "00-xyz", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-{'0' * 16}-00"])
def test_a_bad_traceparent_is_ignored_and_a_new_trace_begins(fleet: Fleet, sent: str) -> None:
    job = post(fleet, {"workflow": says("x")}, traceparent=sent)
    assert len(job["trace_id"]) == 32
    assert job["trace_id"] not in (TRACE, "0" * 32)


def test_every_line_of_every_process_is_json_with_the_same_fields(fleet: Fleet, receiver: Receiver) -> None:
    body = {"workflow": says("x"), "webhook": {"url": f"{receiver.url}/hook"}, "convert_output": {"format": "webp"}}
    works = post(fleet, body)
    ended(fleet, works["id"])
    fails = post(
        fleet,
        {
            "workflow": {
                **says("x", seed=1),
                "9": {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}},
            }
        },
    )
    ended(fleet, fails["id"])

    def about(process: str, job: dict[str, Any]) -> list[dict[str, Any]]:
        return [line for line in lines(fleet, process) if line["job_id"] == job["id"]]

    # Of a job that went well the GPU worker may say nothing.
    for process, job in (("api", works), ("gpu0", fails), ("io", works)):
        until(lambda: about(process, job), timeout_s=10, what=f"a line of {process} about the job")  # noqa: B023
        for line in about(process, job):
            if "fleet.notify" in line["message"]:
                # Its message has an id, and it looks nothing up.
                continue
            # A request that looks at the job has a trace of its own.
            if line["request"] is None or line["request"]["method"] == "POST":
                assert line["trace_id"] == job["trace_id"], line
            assert line["tenant"] == "default", line
    assert {(line["attempt"], line["instance"][:5]) for line in about("gpu0", fails)} == {(1, "gpu0@")}
    [asked] = [
        line
        for line in about("api", works)
        if line["request"] and line["request"]["method"] == "POST" and line["request"]["status"] == 201
    ]
    assert asked["request"]["path"] == "/api/v2/jobs"

    fleet.stop("io")
    fleet.start("io")
    for process in PROCESSES:
        found = lines(fleet, process)
        assert found, f"{process} said nothing"
        assert len({tuple(line) for line in found}) == 1, "the same keys in the same order"
        assert all(name in found[0] for name in FIELDS)
        assert {line["process"] for line in found} == {process}


def test_what_comfyui_printed_is_kept_with_the_job_and_streamed(fleet: Fleet) -> None:
    job = post(fleet, {"workflow": says("step %d of %d", times=3, seconds=3.0, seed=2)})
    assert job["urls"]["logs"].endswith(f"/api/v2/jobs/{job['id']}/logs")
    headers = {**OPERATOR, "Accept": "text/event-stream"}
    answer = requests.get(f"{fleet.base_url}/api/v2/jobs/{job['id']}/events", headers=headers, timeout=30)
    frames = [
        dict(part.split(": ", 1) for part in frame.splitlines()) for frame in answer.text.split("\n\n") if ": " in frame
    ]
    told = [json.loads(frame["data"]) for frame in frames if frame.get("event") == "log"]
    assert [each["message"] for each in told if "step" in each["message"]] == [
        "step 0 of 0",
        "step 1 of 1",
        "step 2 of 2",
    ]
    assert all(set(each) == {"level", "message", "number"} for each in told)

    found = printed(fleet, job["id"])
    assert found["truncated"] is False
    assert [line for line in found["text"].splitlines() if "step" in line] == [
        "step 0 of 0",
        "step 1 of 1",
        "step 2 of 2",
    ]

    requests.delete(f"{fleet.base_url}/api/v2/jobs/{job['id']}", headers=OPERATOR, timeout=10).raise_for_status()
    assert get(fleet, f"{job['id']}/logs").status_code == 404


def test_a_secret_that_a_node_prints_is_masked(fleet: Fleet) -> None:
    key = {"api_key_comfy_org": SECRET}
    job = post(fleet, {"workflow": says(f"calls with {SECRET}", seed=3), "extra_data": key})
    ended(fleet, job["id"])
    text = printed(fleet, job["id"])["text"]
    assert "calls with [secret]" in text
    assert SECRET not in text


def test_tenants_that_share_a_gpu_read_of_no_other(fleet: Fleet) -> None:
    keys = {name: tenants_key(fleet, name) for name in ("acme", "globex")}
    jobs = []
    for number in range(12):
        name = ("acme", "globex")[number % 2]
        jobs.append(
            (
                name,
                post(
                    fleet,
                    {"workflow": says(f"{name} {number}", after_s=0.3, times=5, seconds=0.1, seed=number + 9)},
                    keys[name],
                )["id"],
            )
        )
    for name, job_id in jobs:
        ended(fleet, job_id, keys[name])
    other = {"acme": "globex", "globex": "acme"}
    for number, (name, job_id) in enumerate(jobs):
        text = printed(fleet, job_id, keys[name])["text"]
        assert text.count(f"{name} {number}\n") == 5
        assert other[name] not in text
        assert get(fleet, f"{job_id}/logs", keys[other[name]]).status_code == 404


def test_the_command_line_shows_it_and_follows(fleet: Fleet) -> None:
    fleet.with_variables(COMFY_API_KEY="operators-key")
    job = post(fleet, {"workflow": says("said %d", times=2, seconds=2.0, seed=4)})
    began_s = time.monotonic()
    followed = fleet.command("logs", job["id"], "--follow")
    assert followed.returncode == 0, followed.stderr
    assert time.monotonic() - began_s >= 1.0, "until the end"
    assert [line for line in followed.stdout.splitlines() if "said" in line] == ["said 0", "said 1"]
    shown = fleet.command("logs", job["id"][:8])
    assert shown.stdout == followed.stdout
    assert json.loads(fleet.command("logs", job["id"], "--json").stdout)["complete"] is True
