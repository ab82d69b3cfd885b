"""Finding and interrupting prompts on servers of every age."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from comfy.client.client import ComfyClient
from comfy.prompts.session import ComfySession
from core.errors import (
    PromptInterrupted,
)
from tests.comfy_target import (
    QUICK,
    new_id,
    picture,
    work,
)
from tests.simulator_process import SimulatorProcess, simulator

#: Before and after: interrupt by id (0.3.57), the jobs API (0.6.0), cancelling by id (mid 2026); and the newest.
VERSIONS = ("0.3.45", "0.3.64", "0.10.0", "0.28.0", "0.38.1")


@pytest.fixture(scope="module", params=VERSIONS)
def any_version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-version", request.param) as server:
        yield server


def test_every_version_is_recognised(any_version: SimulatorProcess) -> None:
    client = ComfyClient(any_version.base_url)
    capabilities = client.capabilities()
    assert capabilities.version is not None
    index = VERSIONS.index(str(capabilities.version_text))
    found = (capabilities.interrupt_by_id, capabilities.jobs_api, capabilities.cancel_api)
    assert found == (index >= 1, index >= 2, index >= 3)
    assert client.capabilities() is capabilities
    client.close()


def test_a_prompt_is_found_wherever_it_is(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first, second = (session.submit(work(60, steps=1200), prompt_id=new_id()) for _ in range(2))
        assert first.started.wait(30)
        assert [session.client.find(handle.prompt_id) for handle in (first, second)] == ["running", "pending"]
        for handle in (second, first):
            handle.interrupt()
            with pytest.raises(PromptInterrupted):
                handle.wait(timeout_s=30)
        assert [session.client.find(handle.prompt_id) for handle in (first, second)] == ["finished", None]


def test_interrupting_hits_the_running_prompt_and_no_other(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first = session.submit(work(60, steps=1200), prompt_id=new_id())
        second = session.submit(work(0.2), prompt_id=new_id())
        assert first.started.wait(30)
        first.interrupt()
        started_at = time.monotonic()
        with pytest.raises(PromptInterrupted):
            first.wait(timeout_s=50)
        assert time.monotonic() - started_at < 50, "it would have run for 60 s"
        assert second.wait(timeout_s=30).outputs


def test_interrupting_removes_a_pending_prompt_and_no_other(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first = session.submit(work(60, steps=1200), prompt_id=new_id())
        second = session.submit(work(5), prompt_id=new_id())
        assert first.started.wait(30)
        second.interrupt()
        with pytest.raises(PromptInterrupted):
            second.wait(timeout_s=30)
        assert not second.started.is_set()
        assert session.client.find(first.prompt_id) == "running"
        first.interrupt()
        with pytest.raises(PromptInterrupted):
            first.wait(timeout_s=30)


def test_interrupting_a_finished_prompt_changes_nothing(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        handle = session.submit(picture(), prompt_id=new_id())
        assert handle.wait(timeout_s=10).outputs
        handle.interrupt()
        assert handle.wait(timeout_s=10).outputs
        assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_the_sizes_of_model_files(any_version: SimulatorProcess) -> None:
    with closing(ComfyClient(any_version.base_url)) as client:
        sizes = client.model_sizes()
    assert sizes["sd_xl_base_1.0.safetensors"] == 6_900_000_000
    assert sizes["ae.safetensors"] == 340_000_000
    # It is in two folders, with 11.9 GB in the other.
    assert sizes["flux1-dev-fp8.safetensors"] == 17_200_000_000
    by_folder = {name: size for name, size in sizes.items() if name.endswith("/flux1-dev-fp8.safetensors")}
    assert by_folder == {
        "checkpoints/flux1-dev-fp8.safetensors": 17_200_000_000,
        "diffusion_models/flux1-dev-fp8.safetensors": 11_900_000_000,
    }
