"""Which results of a node are told of while its job runs: short texts, and files that are the job's own for sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfy.client.outputs import ReportedOutput
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from tasks.runner.claimed.early_outputs import MOST_NODES, EarlyOutputs
from tasks.runner.direct_store import DirectStore
from tests.ledger_moves import claimed
from tests.makers import GRAPH, BrokerlessRuntime, come_up

SHOWN = {**GRAPH, "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
PNG = b"\x89PNG a picture"


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    return claimed(runtime.ledger)


@pytest.fixture
def instance(runtime: BrokerlessRuntime, claim: Claim) -> InstanceRecord:
    assert claim
    return replace(come_up(runtime.ledger), output_dir=str(runtime.settings.gpu_dir("gpu0") / "output"))


@pytest.fixture
def early(runtime: BrokerlessRuntime, claim: Claim, instance: InstanceRecord) -> EarlyOutputs:
    return EarlyOutputs(DirectStore(runtime), claim, instance, SHOWN)


def left(instance: InstanceRecord, folder: str, subfolder: str, node_id: str = "2", **fields: Any) -> ReportedOutput:
    """A file as a node has left it and reports it."""
    assert instance.output_dir is not None
    path = Path(instance.output_dir).parent / folder / subfolder / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)
    given: dict[str, Any] = {"filename": "a.png", "subfolder": subfolder, "folder": folder, "kind": "image"}
    return ReportedOutput(node_id=node_id, key="images", **{**given, **fields})


def test_a_file_in_the_jobs_own_folder(early: EarlyOutputs, instance: InstanceRecord, claim: Claim) -> None:
    told = early.take([left(instance, "output", claim.job_id)])
    assert told is not None
    assert [(each["name"], each["storage_key"]) for each in told] == [("a.png", f"{claim.job_id}/a.png")]


def test_a_preview_of_comfyuis_own_node(early: EarlyOutputs, instance: InstanceRecord) -> None:
    assert early.take([left(instance, "temp", "", "9")])


@pytest.mark.parametrize(("folder", "subfolder"), [("temp", ""), ("output", ""), ("output", "of-another-job")])
def test_what_may_be_anothers_waits_for_the_end(
    early: EarlyOutputs, instance: InstanceRecord, folder: str, subfolder: str
) -> None:
    assert early.take([left(instance, folder, subfolder)]) is None


def test_what_lies_on_another_machine_waits_for_the_end(
    runtime: BrokerlessRuntime, claim: Claim, instance: InstanceRecord
) -> None:
    early = EarlyOutputs(DirectStore(runtime), claim, replace(instance, output_dir=None), SHOWN)
    assert early.take([left(instance, "output", claim.job_id)]) is None


def test_a_thousand_nodes_are_not_told_of_one_by_one(early: EarlyOutputs) -> None:
    said = [ReportedOutput(node_id="2", kind="text", key="text", text="said")]
    assert all(early.take(said) for _ in range(MOST_NODES))
    assert early.take(said) is None
