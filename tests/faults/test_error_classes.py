"""What each kind of failure does to a job: its code, whether and where it is tried again, what the client learns."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from core.ledger import Ledger
from core.records.job_error import JobError
from tests.fleet import ALL, ROOT, Fleet, sampled, work
from tests.ledger_moves import submit
from tests.waiting import until

LIMITS = {
    "lease_s": "6",
    "lease_renew_s": "1",
    "reconcile_s": "1",
    "stuck_idle_s": "2.5",
    "stuck_s": "60",
    "interrupt_grace_s": "1.5",
    "quarantine_after": "100",
    "simulator_args": "--simulate-test-nodes",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("classes"), **LIMITS) as fleet:
        yield fleet.start(*ALL).ready()


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    fleet.ready(gpus=2)


def order(ledger: Ledger, fault: str, **options: Any) -> None:
    """Have every instance commit a fault once."""
    for record in ledger.instances.all():
        answer = requests.post(f"{record.url}/simulator/faults", json={fault: options}, timeout=5)
        assert answer.status_code == 200, answer.text


def runs_of(ledger: Ledger, job_id: str) -> list[str]:
    """The instances that had the job, in order."""
    return [event.data["instance"] for event in ledger.jobs.events(job_id) if event.data.get("instance")]


def losses_of(ledger: Ledger, job_id: str) -> list[str]:
    """The codes with which attempts were lost, in order."""
    return [event.data["code"] for event in ledger.jobs.events(job_id) if event.data.get("code")]


def error_of(ledger: Ledger, job_id: str) -> JobError:
    error = ledger.jobs.get(job_id).error
    assert error is not None
    return error


def test_out_of_memory_is_tried_once_more_on_the_other_gpu(fleet: Fleet, ledger: Ledger) -> None:
    order(ledger, "oom")
    job_id = fleet.submit(sampled(1))

    fleet.wait(job_id, "failed")

    assert losses_of(ledger, job_id) == ["out_of_memory"]
    assert sorted(runs_of(ledger, job_id)) == sorted(record.name for record in ledger.instances.all())
    error = error_of(ledger, job_id)
    assert error.code == "out_of_memory"
    assert error.class_type == "KSampler"
    assert error.node_id
    # Where it runs out of memory once only, the second try succeeds.
    requests.post(f"{ledger.instances.all()[0].url}/simulator/faults", json={"oom": {}}, timeout=5)
    first, second = fleet.submit(sampled(2)), fleet.submit(sampled(3))
    assert {fleet.wait(job_id, "succeeded")["status"] for job_id in (first, second)} == {"succeeded"}
    assert [*losses_of(ledger, first), *losses_of(ledger, second)] == ["out_of_memory"]


def test_an_instance_that_runs_out_of_memory_again_and_again_is_replaced(fleet: Fleet, ledger: Ledger) -> None:
    names = [record.gpu_name for record in ledger.instances.all()]
    before = {name: fleet.instance_pid(name) for name in names}
    order(ledger, "oom", times=3)

    for seed in (4, 5, 6):
        fleet.wait(fleet.submit(sampled(seed)), "failed", "succeeded")

    for name in names:
        until(lambda: fleet.living_instance_pid(name) not in (None, before[name]), what=f"another {name}")  # noqa: B023


def test_a_stuck_prompt_costs_the_process_and_runs_elsewhere(fleet: Fleet, ledger: Ledger) -> None:
    before = {record.name: fleet.instance_pid(record.name.partition("@")[0]) for record in ledger.instances.all()}
    order(ledger, "hang")
    job_id = fleet.submit(work(0.5, seed=10))
    until(lambda: runs_of(ledger, job_id), what="the first run")
    [first] = runs_of(ledger, job_id)
    _withdraw_elsewhere(ledger, job_id)

    fleet.wait(job_id, "succeeded", timeout_s=40)

    assert losses_of(ledger, job_id) == ["stuck"]
    assert runs_of(ledger, job_id) == [first, _other(ledger, first).name]
    name = first.partition("@")[0]
    until(lambda: fleet.living_instance_pid(name) not in (None, before[first]), what="another process")


def test_a_node_that_keeps_its_instance_mute_costs_nothing(fleet: Fleet, ledger: Ledger) -> None:
    before = {name: fleet.instance_pid(name) for name in ("gpu0", "gpu1")}
    graph = work(0.2, seed=15)
    # Two probes of five seconds have no answer.
    graph["4"] = {"class_type": "T_Mute", "inputs": {"image": ["2", 0], "seconds": 12.0, "works": True}}
    graph["3"]["inputs"]["images"] = ["4", 0]
    job_id = fleet.submit(graph)

    job = fleet.wait(job_id, "succeeded", timeout_s=60)

    assert fleet.picture(job)
    assert ledger.jobs.get(job_id).attempt == 1
    assert {name: fleet.instance_pid(name) for name in before} == before


def test_a_dead_prompt_worker_behind_healthy_http_is_found_out(fleet: Fleet, ledger: Ledger) -> None:
    order(ledger, "worker_dead")
    job_id = fleet.submit(work(0.2, seed=20))
    until(lambda: runs_of(ledger, job_id), what="the first run")
    _withdraw_elsewhere(ledger, job_id)

    fleet.wait(job_id, "succeeded", timeout_s=60)

    assert losses_of(ledger, job_id) == ["stuck"]
    assert len(set(runs_of(ledger, job_id))) == 2


def test_a_prompt_over_its_time_that_is_deaf_to_interrupts_costs_the_process(fleet: Fleet, ledger: Ledger) -> None:
    order(ledger, "hang")
    job_id = fleet.submit(work(0.2, seed=30), timeout=1.0)
    fleet.wait(job_id, "failed", timeout_s=20)
    _withdraw_elsewhere(ledger, job_id)

    error = error_of(ledger, job_id)
    assert error.code == "timeout"
    assert len(runs_of(ledger, job_id)) == 1, "it is not tried again"
    # The other jobs find a GPU that works.
    fleet.ready(gpus=2)
    fleet.wait(fleet.submit(work(0.1, seed=31)), "succeeded")


def test_a_cancelled_job_that_is_deaf_to_interrupts_costs_the_process(fleet: Fleet, ledger: Ledger) -> None:
    order(ledger, "hang")
    job_id = fleet.submit(work(0.2, seed=40))
    until(lambda: runs_of(ledger, job_id), what="the run")
    _withdraw_elsewhere(ledger, job_id)
    before = fleet.instance_pid(runs_of(ledger, job_id)[0].partition("@")[0])

    fleet.cancel(job_id)
    fleet.wait(job_id, "canceled", timeout_s=20)

    name = runs_of(ledger, job_id)[0].partition("@")[0]
    until(lambda: fleet.living_instance_pid(name) not in (None, before), what="another process")


def test_a_job_that_takes_its_instance_down_each_time_is_poison(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(work(30.0, steps=300, seed=50))
    for number in (1, 2, 3):
        until(lambda: len(runs_of(ledger, job_id)) == number, timeout_s=40, what=f"run {number}")  # noqa: B023
        name = runs_of(ledger, job_id)[-1].partition("@")[0]
        pid = fleet.living_instance_pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    fleet.wait(job_id, "failed", timeout_s=30)

    assert losses_of(ledger, job_id) == ["instance_lost", "instance_lost"]
    runs = runs_of(ledger, job_id)
    assert runs[0] != runs[1], "the second try is made elsewhere"
    error = error_of(ledger, job_id)
    assert error.code == "poison"
    assert "3 lost attempts" in error.message


@pytest.mark.parametrize(
    ("fault", "code", "seed"),
    [("reject_413", "invalid_workflow", 90), ("missing_file", "output_unavailable", 70)],
    ids=["a prompt ComfyUI refuses after all", "a file that is reported and not there"],
)
def test_what_no_other_gpu_would_do_better_fails_at_once(
    fleet: Fleet, ledger: Ledger, fault: str, code: str, seed: int
) -> None:
    order(ledger, fault)
    job_id = fleet.submit(work(0.0, seed=seed))

    fleet.wait(job_id, "failed")
    _withdraw_elsewhere(ledger, job_id)

    assert error_of(ledger, job_id).code == code
    assert len(runs_of(ledger, job_id)) == 1


def test_a_server_that_breaks_down_over_a_prompt_is_not_asked_at_once_again(fleet: Fleet, ledger: Ledger) -> None:
    order(ledger, "reject_500")
    job_id = fleet.submit(work(0.0, seed=80))

    fleet.wait(job_id, "succeeded")

    assert losses_of(ledger, job_id) == ["instance_lost", "instance_lost"]
    first, second, third = runs_of(ledger, job_id)
    assert first == third != second


def failing(kind: str) -> dict[str, Any]:
    graph = work(0.0)
    graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": kind}}
    return graph


def test_an_error_of_any_length_is_bounded_and_can_be_had_whole(fleet: Fleet, ledger: Ledger) -> None:
    job_id = fleet.submit(failing("long"))

    error = fleet.wait(job_id, "failed")["error"]

    assert (error["node_id"], error["class_type"]) == ("2", "T_Err")
    assert len(error["message"]) < 2200
    assert error["message"].startswith("begin x")
    assert error["message"].endswith(" end")
    assert f"characters left out; GET /api/v2/jobs/{job_id}/error has them" in error["message"]
    assert len(json.dumps(error_of(ledger, job_id).to_json())) < 20_000
    assert requests.get(f"{fleet.base_url}/api/v2/jobs", timeout=5).text.count("x") < 20_000
    whole = requests.get(f"{fleet.base_url}/api/v2/jobs/{job_id}/error", timeout=5).json()
    assert 900_000 < len(whole["message"]) < 1_100_000
    assert {**whole, "message": None} == {**error, "message": None}
    for log in ("gpu0", "gpu1", "io", "api"):
        assert 100 * "x" not in "".join(line for line in fleet.log(log).splitlines() if len(line) > 10_000)


def test_an_error_names_no_place_inside_the_fleet(fleet: Fleet) -> None:
    error = fleet.wait(fleet.submit(failing("place")), "failed")["error"]

    expected = "POST [address]/upload: no such file: '.../a b.safetensors', .../c.pt"
    assert error["message"].strip() == expected
    assert str(ROOT) not in error["traceback"]
    assert 'File ".../misbehaving.py"' in error["traceback"]


def test_an_error_that_is_no_text_is_made_one(fleet: Fleet) -> None:
    error = fleet.wait(fleet.submit(failing("unicode")), "failed")["error"]
    assert error["message"].strip() == "half of a pair: ?"


def blocked(**inputs: Any) -> dict[str, Any]:
    graph = work(0.0)
    graph["2"] = {"class_type": "T_Block", "inputs": {"image": ["1", 0], "message": "no faces found"}}
    return graph | inputs


def test_a_job_that_a_node_blocks_fails_with_what_the_node_says(fleet: Fleet) -> None:
    error = fleet.wait(fleet.submit(blocked()), "failed")["error"]

    assert error["code"] == "node_execution_error"
    assert error["message"] == "Execution Blocked: no faces found"
    assert (error["node_id"], error["class_type"]) == ("3", "SaveImage")


def test_a_job_of_which_a_node_blocks_a_part_says_so(fleet: Fleet) -> None:
    other = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "other"}}
    job = fleet.wait(fleet.submit(blocked(**{"4": other})), "succeeded")

    assert [output["node_id"] for output in job["outputs"]] == ["4"]
    assert job["warnings"] == [
        {"message": "Execution Blocked: no faces found", "node_id": "3", "class_type": "SaveImage"}
    ]


def test_of_many_blocked_parts_the_first_are_told(fleet: Fleet) -> None:
    graph: dict[str, Any] = {
        "other": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "o"}}
    }
    for number in range(30):
        block = {"class_type": "T_Block", "inputs": {"image": ["1", 0], "message": f"no faces in {number}"}}
        save = {"class_type": "SaveImage", "inputs": {"images": [f"b{number}", 0], "filename_prefix": "x"}}
        graph |= {f"b{number}": block, f"s{number}": save}
    job = fleet.wait(fleet.submit(blocked(**graph)), "succeeded")

    assert len(job["warnings"]) == 21
    assert job["warnings"][-1] == {"message": "11 further parts did not run.", "node_id": None, "class_type": None}


def test_a_node_exception_is_told_whole_and_not_tried_again(fleet: Fleet, ledger: Ledger) -> None:
    graph = work(0.0, seed=60)
    graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
    job_id = fleet.submit(graph)

    fleet.wait(job_id, "failed")

    error = error_of(ledger, job_id)
    assert (error.code, error.node_id, error.class_type) == ("node_execution_error", "2", "T_Err")
    assert "boom" in error.message
    assert "raise RuntimeError(" in (error.traceback or "")
    assert len(runs_of(ledger, job_id)) == 1


def _other(ledger: Ledger, name: str) -> Any:
    [other] = [record for record in ledger.instances.all() if record.name != name]
    return other


def _withdraw_elsewhere(ledger: Ledger, job_id: str) -> None:
    """Forget the fault on the instance that the job did not meet."""
    other = _other(ledger, runs_of(ledger, job_id)[0])
    requests.delete(f"{other.url}/simulator/faults", timeout=5)


def test_a_fault_of_ours_holds_no_gpu(fleet: Fleet, ledger: Ledger) -> None:
    """A graph that no API would accept: the worker stumbles over it outside of all classes."""
    job_id = submit(ledger).id

    until(lambda: ledger.jobs.get(job_id).attempt == 2, timeout_s=20, what="the second attempt")

    fleet.cancel(job_id)
    fleet.wait(fleet.submit(work(0.1, seed=99)), "succeeded")


@pytest.mark.parametrize(
    ("node", "input_name", "says"),
    [
        (
            {"class_type": "T_OwnCheckAll", "inputs": {"choice": "refused", "size": 500, "other": "z"}},
            "choice",
            "a word",
        ),
        (
            {"class_type": "T_OwnCheck", "inputs": {"choice": "any", "size": 500, "other": "x"}},
            "size",
            "bigger than max",
        ),
        ({"class_type": "T_OwnCheck", "inputs": {"choice": "any", "size": 1, "other": "z"}}, "other", "not in list"),
    ],
)
def test_what_only_the_server_can_refuse_fails_at_once_with_node_and_input(
    fleet: Fleet, ledger: Ledger, node: dict[str, Any], input_name: str, says: str
) -> None:
    graph = {"own": node, "out": {"class_type": "PreviewAny", "inputs": {"source": ["own", 0]}}}
    took_ms = []
    for _ in range(3):
        job_id = fleet.submit(graph)
        fleet.wait(job_id, "failed")

        error = error_of(ledger, job_id)
        assert error.code == "invalid_workflow"
        assert error.node_id == "own"
        assert error.class_type == node["class_type"]
        assert input_name in error.message
        assert says in error.message
        job = ledger.jobs.get(job_id)
        assert job.started_at_ms is not None
        assert job.completed_at_ms is not None
        took_ms.append(job.completed_at_ms - job.started_at_ms)
        assert len(runs_of(ledger, job_id)) == 1
    # The machine may be busy with something else for a moment, but hardly each time.
    assert min(took_ms) < 1_000
