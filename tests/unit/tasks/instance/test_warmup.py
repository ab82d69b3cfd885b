"""The warm-up: once for each process of the instance, and never for one that takes jobs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy.process.supervisor import InstanceUnfit
from core.errors import ComfyUnavailable, ConfigurationError
from tasks.instance import warmup as warmup_module
from tasks.instance.warmup import WarmUp
from tests.makers import GRAPH
from tests.services import make_settings


class Instance:
    """An instance whose process a test replaces."""

    def __init__(self) -> None:
        self.pid: int | None = 7
        self.spec = SimpleNamespace(name="gpu0")
        self.stopped = 0
        self.stop_error: Exception | None = None

    def stop(self) -> None:
        self.stopped += 1
        if self.stop_error is not None:
            raise self.stop_error


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The warm-ups that were run; each takes 2.5 s, the next one half a second more."""
    ran: list[tuple[Any, ...]] = []

    def run(base_url: str, graph: object, *, timeout_s: float) -> float:
        ran.append((base_url, graph, timeout_s))
        return 2.0 + len(ran) / 2

    monkeypatch.setattr(warmup_module, "warm_up", run)
    return ran


@pytest.fixture
def warmup(tmp_path: Path, instance: Instance) -> WarmUp:
    (tmp_path / "warm.json").write_text(json.dumps(GRAPH))
    settings = make_settings(tmp_path, warmup_workflow=tmp_path / "warm.json", warmup_timeout_s=40.0)
    return WarmUp(settings, instance)  # type: ignore[arg-type]


def test_without_a_workflow_there_is_none(tmp_path: Path, instance: Instance, ran: list[tuple[Any, ...]]) -> None:
    assert WarmUp(make_settings(tmp_path), instance).run("http://i") is None  # type: ignore[arg-type]
    assert ran == []


def test_a_workflow_that_is_not_there_is_said_at_once(tmp_path: Path, instance: Instance) -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_WARMUP_WORKFLOW"):
        WarmUp(make_settings(tmp_path, warmup_workflow=tmp_path / "gone"), instance)  # type: ignore[arg-type]


def test_each_process_is_warmed_up_once(warmup: WarmUp, instance: Instance, ran: list[tuple[Any, ...]]) -> None:
    assert [warmup.run("http://i"), warmup.run("http://i")] == [2.5, 2.5]
    assert ran == [("http://i", GRAPH, 40.0)]
    instance.pid = 8
    assert warmup.run("http://j") == 3.0


@pytest.mark.usefixtures("ran")
def test_what_it_loaded_is_told_once(tmp_path: Path, instance: Instance) -> None:
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.sft"}}
    (tmp_path / "warm.json").write_text(json.dumps({**GRAPH, "3": loader}))
    settings = make_settings(tmp_path, warmup_workflow=tmp_path / "warm.json")
    warmup = WarmUp(settings, instance)  # type: ignore[arg-type]
    assert not warmup.loaded
    warmup.run("http://i")
    assert warmup.loaded == ("a.sft",)
    warmup.is_recorded()
    warmup.run("http://i")
    assert not warmup.loaded, "it has not run again"
    instance.pid = 8
    warmup.run("http://i")
    assert warmup.loaded == ("a.sft",)


def test_an_attached_one_has_no_process_and_is_warmed_up_once(
    warmup: WarmUp, instance: Instance, ran: list[tuple[Any, ...]]
) -> None:
    instance.pid = None
    assert [warmup.run("http://i"), warmup.run("http://i")] == [2.5, 2.5]


def test_one_that_fails_is_unfit_and_tried_again_at_the_next_start(
    warmup: WarmUp, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def fail(base_url: str, *_arguments: object, **_options: object) -> float:
        tries.append(base_url)
        raise ComfyUnavailable("The warm-up workflow failed: boom")

    monkeypatch.setattr(warmup_module, "warm_up", fail)
    for _ in range(2):
        with pytest.raises(InstanceUnfit, match="gpu0: The warm-up workflow failed: boom"):
            warmup.run("http://i")
    assert len(tries) == 2
    warmup.call_off()
    assert instance.stopped == 0, "it does not run any more"


def test_one_that_runs_is_called_off_with_its_process(
    warmup: WarmUp, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_arguments: object, **_options: object) -> float:
        warmup.call_off()
        instance.stop_error = ComfyUnavailable("it does not end")
        warmup.call_off()
        return 1.0

    monkeypatch.setattr(warmup_module, "warm_up", run)
    warmup.call_off()
    assert instance.stopped == 0
    warmup.run("http://i")
    warmup.call_off()
    assert instance.stopped == 2
