"""What an instance needs after prompts that ended badly, and what the ledger is told of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.client.client import ComfyClient
from core.errors import (
    ComfylineError,
    ComfyOutOfMemory,
    ComfyUnavailable,
    LedgerUnavailable,
    PromptFailed,
    PromptStuck,
    PromptTimeout,
)
from core.ledger.instances import HEALTHY, UNHEALTHY
from tasks.runner import recovery as recovery_module
from tasks.runner.distress import CondemnPipe
from tasks.runner.recovery import OUT_OF_MEMORY_LIMIT, Recovery
from tests.ledger_moves import ERROR, claimed
from tests.makers import NAME, BrokerlessRuntime, come_up, record_of

MEMORY = ComfyOutOfMemory("CUDA out of memory")


@pytest.fixture
def pipe() -> Iterator[CondemnPipe]:
    pipe = CondemnPipe()
    yield pipe
    for descriptor in (pipe._reader, pipe._writer):
        os.close(descriptor)


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What instances were asked to free."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ComfyClient, "free", lambda _self, **options: asked.append(options))
    return asked


@pytest.fixture
def recovery(runtime: BrokerlessRuntime, pipe: CondemnPipe) -> Recovery:
    return Recovery(runtime, pipe)


def said(pipe: CondemnPipe) -> str:
    """What the main process hears."""
    os.set_blocking(pipe._reader, False)
    try:
        return os.read(pipe._reader, 4096).decode()
    except BlockingIOError:
        return ""


class TestMemory:
    def test_only_prompts_in_a_row_count(
        self, recovery: Recovery, runtime: BrokerlessRuntime, pipe: CondemnPipe, freed: list[dict[str, Any]]
    ) -> None:
        instance = come_up(runtime.ledger)
        for _ in range(3):
            assert not any(recovery.after(MEMORY, instance) for _ in range(OUT_OF_MEMORY_LIMIT - 1))
            recovery.is_well()
        assert record_of(runtime.ledger).state == HEALTHY
        assert said(pipe) == ""
        assert freed == [{"unload_models": True, "free_memory": True}] * 3 * (OUT_OF_MEMORY_LIMIT - 1)

    def test_what_frees_nothing_is_replaced_and_the_count_begins_anew(
        self, recovery: Recovery, runtime: BrokerlessRuntime, pipe: CondemnPipe, freed: list[dict[str, Any]]
    ) -> None:
        instance = come_up(runtime.ledger)
        for _ in range(2):
            found = [recovery.after(MEMORY, instance) for _ in range(OUT_OF_MEMORY_LIMIT)]
            assert found == [False] * (OUT_OF_MEMORY_LIMIT - 1) + [True]
        reason = f"{OUT_OF_MEMORY_LIMIT} prompts in a row ran out of memory."
        record = record_of(runtime.ledger)
        assert (record.state, record.reason) == (UNHEALTHY, f"Replaced: {reason}")
        assert said(pipe) == f"{reason}\n{reason}\n"

    def test_three_are_enough(self) -> None:
        assert OUT_OF_MEMORY_LIMIT == 3

    def test_an_instance_that_does_not_answer_counts_all_the_same(
        self, recovery: Recovery, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(_self: ComfyClient, **_options: bool) -> None:
            raise ComfyUnavailable("gone")

        closed: list[str] = []
        monkeypatch.setattr(ComfyClient, "free", away)
        monkeypatch.setattr(ComfyClient, "close", lambda client: closed.append(client.base_url))
        instance = come_up(runtime.ledger)
        assert not recovery.after(MEMORY, instance)
        assert closed == [instance.url]


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (PromptStuck("It hangs."), True),
        (PromptTimeout("Too long.", True), True),
        (PromptTimeout("Too long.", False), False),
        (ComfyUnavailable("gone"), False),
        (PromptFailed("boom"), False),
    ],
)
def test_only_a_prompt_that_does_not_end_costs_the_process(
    recovery: Recovery, runtime: BrokerlessRuntime, pipe: CondemnPipe, error: ComfylineError, is_lost: bool
) -> None:
    instance = come_up(runtime.ledger)
    assert recovery.after(error, instance) is is_lost
    assert said(pipe) == (f"{error.message}\n" if is_lost else "")
    assert record_of(runtime.ledger).state == (UNHEALTHY if is_lost else HEALTHY)


def test_it_is_replaced_although_the_ledger_is_away(
    recovery: Recovery, runtime: BrokerlessRuntime, pipe: CondemnPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object, **_options: object) -> None:
        raise LedgerUnavailable("away")

    instance = come_up(runtime.ledger)
    monkeypatch.setattr(runtime.ledger.instances, "down", away)
    assert recovery.after(PromptStuck("It hangs."), instance)
    assert said(pipe) == "It hangs.\n"


class TestFiles:
    @pytest.fixture
    def left(self, runtime: BrokerlessRuntime) -> tuple[str, Path]:
        """A job that runs, and a file it has made."""
        claim = claimed(runtime.ledger)
        folder = runtime.settings.gpu_dir("gpu0") / "output" / claim.job_id
        folder.mkdir(parents=True)
        return claim.job_id, folder

    def end(self, runtime: BrokerlessRuntime, job_id: str) -> None:
        runtime.ledger.claims.fail(claimed_again(runtime, job_id), ERROR)

    def test_those_of_an_ended_job_go(
        self, recovery: Recovery, runtime: BrokerlessRuntime, left: tuple[str, Path]
    ) -> None:
        job_id, folder = left
        instance = come_up(runtime.ledger)
        recovery.remove_files(instance, job_id)
        assert folder.exists(), "another attempt may be writing there"
        self.end(runtime, job_id)
        recovery.remove_files(come_up(runtime.ledger, "gpu0@there", kind="attached"), job_id)
        assert folder.exists(), "nothing of an attached one is ours"
        recovery.remove_files(instance, job_id)
        assert not folder.exists()

    def test_of_a_job_that_is_gone_nothing_is_known(self, recovery: Recovery, runtime: BrokerlessRuntime) -> None:
        recovery.remove_files(come_up(runtime.ledger), "nobody")


def claimed_again(runtime: BrokerlessRuntime, job_id: str) -> Any:
    """Let a running job be claimed anew."""
    runtime.ledger.requeue.expire_leases(NAME)
    runtime.ledger.requeue.take_back_lapsed()
    return runtime.ledger.claims.claim("gpu5@here", named=job_id)


class TestWatchdog:
    def test_the_process_is_looked_up_at_each_start(
        self, recovery: Recovery, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []

        def recorded(pid_file: Path) -> int:
            asked.append(pid_file)
            return 100 + len(asked)

        made: list[tuple[Any, int | None]] = []
        monkeypatch.setattr(recovery_module, "recorded_pid", recorded)
        monkeypatch.setattr(recovery_module, "Watchdog", lambda limits, pid: made.append((limits, pid)))
        first = come_up(runtime.ledger)
        recovery.watchdog(first)
        recovery.watchdog(first)
        with runtime.ledger.database.write() as transaction:
            transaction.connection.exec_driver_sql("UPDATE instances SET up_since_ms = 5")
        recovery.watchdog(record_of(runtime.ledger))
        assert [pid for _, pid in made] == [101, 101, 102]
        assert asked == [runtime.settings.gpu_dir("gpu0") / "instance.pid"] * 2
        limits = made[0][0]
        assert (limits.idle_limit_s, limits.silence_limit_s) == (
            runtime.settings.stuck_idle_s,
            runtime.settings.stuck_s,
        )

    def test_an_attached_one_has_no_process_here(
        self, recovery: Recovery, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[int | None] = []
        monkeypatch.setattr(recovery_module, "recorded_pid", lambda _file: 7)
        monkeypatch.setattr(recovery_module, "Watchdog", lambda _limits, pid: made.append(pid))
        recovery.watchdog(come_up(runtime.ledger, kind="attached"))
        assert made == [None]
