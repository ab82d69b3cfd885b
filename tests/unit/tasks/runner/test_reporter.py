"""What a running prompt tells: how often, how much, and what it keeps."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from comfy.client.outputs import ReportedOutput
from core.errors import LedgerUnavailable
from core.ledger.claims import Claim
from core.records.progress import Progress
from tasks.runner import reporter as reporter_module
from tasks.runner.claimed.early_outputs import MAX_TEXT_CHARS, EarlyOutputs
from tasks.runner.direct_store import DirectStore
from tasks.runner.reporter import (
    LEDGER_EVERY_S,
    NOTICE_EVERY_S,
    PREVIEW_EVERY_S,
    PREVIEW_MAX_BYTES,
    ProgressReporter,
)
from tests.ledger_moves import claimed
from tests.makers import GRAPH, BrokerlessRuntime, Stopwatch, come_up

SENDS = {**GRAPH, "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
PNG = "image/png"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(reporter_module, "time", watch)
    return watch


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    return claimed(runtime.ledger)


@pytest.fixture
def lives() -> list[int]:
    """One entry for each sign of life."""
    return []


@pytest.fixture
def reporter(runtime: BrokerlessRuntime, claim: Claim, watch: Stopwatch, lives: list[int]) -> ProgressReporter:
    early = EarlyOutputs(DirectStore(runtime), claim, come_up(runtime.ledger), SENDS)
    return ProgressReporter(runtime, claim, SENDS, on_life=lambda: lives.append(1), early=early.take)


def told(runtime: BrokerlessRuntime, kind: str) -> list[Any]:
    return [notice.data for notice in runtime.noticed.sent if notice.kind == kind]


def test_every_sign_of_life_is_heard(reporter: ProgressReporter, lives: list[int]) -> None:
    reporter.on_started()
    reporter.on_progress(Progress())
    assert len(lives) == 2


def test_the_first_moments_are_worth_nothing(
    reporter: ProgressReporter, runtime: BrokerlessRuntime, watch: Stopwatch
) -> None:
    reporter.on_progress(Progress(value=0.1))
    watch.now_s += NOTICE_EVERY_S / 2
    reporter.on_progress(Progress(value=0.2))
    assert told(runtime, "progress") == []


def test_notices_now_and_then(
    reporter: ProgressReporter, runtime: BrokerlessRuntime, watch: Stopwatch, claim: Claim
) -> None:
    for value in (0.25, 0.5, 0.75):
        watch.now_s += NOTICE_EVERY_S
        reporter.on_progress(Progress(value=value))
        reporter.on_progress(Progress(value=value + 0.01))
    assert [data["value"] for data in told(runtime, "progress")] == [0.25, 0.5, 0.75]
    assert {notice.job_id for notice in runtime.noticed.sent} == {claim.job_id}
    assert runtime.ledger.jobs.get(claim.job_id).progress is None, "the ledger hears less"


def test_the_ledger_now_and_then(
    reporter: ProgressReporter, runtime: BrokerlessRuntime, watch: Stopwatch, claim: Claim
) -> None:
    found = []
    for value in (0.1, 0.2, 0.3):
        watch.now_s += LEDGER_EVERY_S / 2
        reporter.on_progress(Progress(value=value))
        found.append(runtime.ledger.jobs.get(claim.job_id).progress)
    assert found == [None, Progress(value=0.2), Progress(value=0.2)]


def test_a_ledger_that_is_away_ends_no_prompt(
    reporter: ProgressReporter, runtime: BrokerlessRuntime, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_arguments: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(runtime.ledger.claims, "progress", away)
    watch.now_s += LEDGER_EVERY_S
    reporter.on_progress(Progress(value=0.5))
    assert len(told(runtime, "progress")) == 1


class TestPreviews:
    def test_now_and_then_with_its_node(
        self, reporter: ProgressReporter, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        for data in (b"a", b"b"):
            reporter.on_preview("1", PNG, data)
        watch.now_s += PREVIEW_EVERY_S
        reporter.on_preview(None, PNG, b"c")
        assert told(runtime, "preview") == [
            {"node_id": "1", "content_type": PNG, "data_base64": base64.b64encode(b"a").decode()},
            {"node_id": "", "content_type": PNG, "data_base64": base64.b64encode(b"c").decode()},
        ]

    def test_no_larger_than_the_broker_bears(self, reporter: ProgressReporter, runtime: BrokerlessRuntime) -> None:
        reporter.on_preview("1", PNG, b"x" * (PREVIEW_MAX_BYTES + 1))
        assert told(runtime, "preview") == []
        reporter.on_preview("1", PNG, b"x" * PREVIEW_MAX_BYTES)
        assert len(told(runtime, "preview")) == 1

    def test_nothing_but_pictures(self, reporter: ProgressReporter, runtime: BrokerlessRuntime) -> None:
        reporter.on_preview("1", "text/plain", b"x")
        assert told(runtime, "preview") == []

    def test_pictures_that_are_sent_and_not_saved_are_all_kept(self, reporter: ProgressReporter) -> None:
        large = b"x" * (PREVIEW_MAX_BYTES + 1)
        for node_id, data in (("3", b"a"), ("1", b"b"), ("gone", b"c"), (None, b"d"), ("3", large)):
            reporter.on_preview(node_id, PNG, data)
        assert reporter.sent == [("3", b"a"), ("3", large)]


def test_limits_are_what_was_measured() -> None:
    assert (NOTICE_EVERY_S, LEDGER_EVERY_S, PREVIEW_EVERY_S, PREVIEW_MAX_BYTES) == (0.25, 1.0, 1.0, 262_144)


def test_what_a_node_has_made_is_told_at_once(reporter: ProgressReporter, runtime: BrokerlessRuntime) -> None:
    reporter.on_cached(["1", "not in the graph"])
    reporter.on_executed("2", [ReportedOutput(node_id="2", kind="text", key="text", text="said")])
    assert told(runtime, "cached") == [{"nodes": ["1"]}]
    [data] = told(runtime, "executed")
    assert (data["node"], [each["text"] for each in data["outputs"]]) == ("2", ["said"])


def test_what_is_too_long_for_a_notice_is_told_at_the_end(
    reporter: ProgressReporter, runtime: BrokerlessRuntime
) -> None:
    long = ReportedOutput(node_id="2", kind="text", key="text", text="x" * (MAX_TEXT_CHARS + 1))
    reporter.on_executed("2", [long])
    assert told(runtime, "executed") == []
