"""What is written down of what an instance prints: of each job its own, bounded, and whole in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest

from comfy.client.printed import PrintedEntry
from comfy.prompts.session import ComfySession, PromptHandle
from core.errors import ComfyUnavailable
from core.ledger.claims import Claim
from core.ledger.job_logs import PIECES
from tasks.runner.printing import follower as follower_module
from tasks.runner.printing.follower import MOST_VAIN, PrintedJob, PrintFollower
from tasks.runner.printing.line_maker import LOOK_LINES
from tests.ledger_moves import claimed
from tests.makers import BrokerlessRuntime
from tests.waiting import until

SECRET = "comfyui-secret-key"


class Instance:
    """A ComfyUI that prints what it is told."""

    def __init__(self) -> None:
        self.entries: list[PrintedEntry] = []
        self.is_away = False
        self.looks = 0
        self.session = cast(ComfySession, SimpleNamespace(client=self))
        self._zone = datetime.now(timezone.utc).astimezone().utcoffset() or timedelta()

    def printed(self) -> list[PrintedEntry] | None:
        self.looks += 1
        if self.is_away:
            raise ComfyUnavailable("it is gone")
        return list(self.entries)

    def say(self, text: str) -> None:
        time.sleep(0.003)
        at_ms = (time.time() + self._zone.total_seconds()) * 1000
        self.entries = [*self.entries, PrintedEntry(at_ms=at_ms, is_local=True, text=text)][-300:]


class Running:
    """A prompt that is followed."""

    def __init__(
        self, follower: PrintFollower, instance: Instance, claim: Claim, *, secret: str | None = SECRET
    ) -> None:
        self.claim = claim
        self.handle = SimpleNamespace(began_at_ms=None, ended_at_ms=None, skew_ms=0.0)
        handle = cast(PromptHandle, self.handle)
        posted_ms = time.time() * 1000
        job = follower.follow(claim, instance.session, handle, posted_ms=posted_ms, secret=secret)
        assert job is not None
        self.job: PrintedJob = job

    def begin(self) -> None:
        time.sleep(0.002)
        self.handle.began_at_ms = float(int(time.time() * 1000))
        time.sleep(0.002)

    def end(self) -> None:
        time.sleep(0.002)
        self.handle.ended_at_ms = float(int(time.time() * 1000))
        self.job.end()


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setattr(follower_module, "EVERY_S", 0.05)
    return Instance()


@pytest.fixture
def follower(runtime: BrokerlessRuntime, instance: Instance) -> Iterator[PrintFollower]:
    follower = PrintFollower(runtime)
    yield follower
    follower.close()


def lines(runtime: BrokerlessRuntime, claim: Claim) -> tuple[str, ...]:
    found = runtime.ledger.job_logs.read(claim.job_id)
    return () if found is None else found.lines


def whole(runtime: BrokerlessRuntime, claim: Claim) -> Any:
    """What is kept of a job, once nothing follows."""

    def ended() -> Any:
        found = runtime.ledger.job_logs.read(claim.job_id)
        return found if found is not None and found.is_whole else None

    return until(ended, timeout_s=10, what=f"all that {claim.job_id} printed")


def test_each_job_has_what_was_printed_while_its_prompt_ran(
    runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance
) -> None:
    instance.say("before\n")
    one, two = (Running(follower, instance, claimed(runtime.ledger)) for _ in range(2))
    one.begin()
    instance.say(f"loads with {SECRET}\n")
    until(lambda: lines(runtime, one.claim), timeout_s=10, what="the first line, while it runs")
    instance.say("begun, ")
    instance.say("and ended\n")
    one.end()
    instance.say("between\n")
    two.begin()
    instance.say("of two")
    two.end()

    assert whole(runtime, one.claim).lines == ("loads with [secret]", "begun, and ended")
    assert whole(runtime, two.claim).lines == ("of two",)
    hints = [notice for notice in runtime.noticed.sent if notice.kind == "log"]
    assert {notice.job_id for notice in hints} == {one.claim.job_id, two.claim.job_id}
    assert all(notice.data is not None and notice.data.keys() == {"number"} for notice in hints), (
        "no text in the broker"
    )


def test_no_job_reads_the_secret_of_another_that_a_node_prints_when_that_is_over(
    runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance
) -> None:
    one = Running(follower, instance, claimed(runtime.ledger))
    one.begin()
    one.end()
    two = Running(follower, instance, claimed(runtime.ledger), secret=None)
    two.begin()
    instance.say(f"a thread of the job before uses {SECRET}\n")
    two.end()

    assert whole(runtime, two.claim).lines == ("a thread of the job before uses [secret]",)


def test_nobody_is_asked_when_nothing_runs(
    runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance
) -> None:
    job = Running(follower, instance, claimed(runtime.ledger))
    job.begin()
    instance.say("x\n")
    job.end()
    whole(runtime, job.claim)
    looks = instance.looks
    time.sleep(0.3)
    assert instance.looks == looks


def test_of_much_the_end_is_kept(runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance) -> None:
    job = Running(follower, instance, claimed(runtime.ledger))
    job.begin()
    instance.say("".join(f"line {number}\n" for number in range(3 * LOOK_LINES)))
    job.end()

    found = whole(runtime, job.claim)
    assert found.is_cut
    assert len(found.lines) == LOOK_LINES
    assert found.lines[-1] == f"line {3 * LOOK_LINES - 1}"


def test_a_job_keeps_no_more_bytes_than_the_setting_says(
    runtime: BrokerlessRuntime, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "settings", runtime.settings.model_copy(update={"job_log_bytes": 1000}))
    follower = PrintFollower(runtime)
    job = Running(follower, instance, claimed(runtime.ledger))
    job.begin()
    for number in range(12):
        instance.say(f"{number:02} {'x' * 300}\n")
        until(lambda: f"{number:02}" in "".join(lines(runtime, job.claim)), timeout_s=10, what="the line")  # noqa: B023
    instance.say("y" * 5000 + "\n")
    job.end()

    found = whole(runtime, job.claim)
    follower.close()
    assert found.is_cut
    assert sum(len(line) + 1 for line in found.lines) <= 1000


def test_a_job_that_keeps_nothing_is_not_followed(
    runtime: BrokerlessRuntime, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "settings", runtime.settings.model_copy(update={"job_log_bytes": 0}))
    handle = cast(PromptHandle, SimpleNamespace())
    claim = claimed(runtime.ledger)
    assert PrintFollower(runtime).follow(claim, instance.session, handle, posted_ms=0.0, secret=None) is None


def test_no_tenant_reads_of_another_whose_prompt_is_posted_meanwhile(
    runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance
) -> None:
    mine = Running(follower, instance, claimed(runtime.ledger))
    mine.begin()
    instance.say("mine\n")
    time.sleep(0.2)
    other = claimed(runtime.ledger, tenant="other")
    posted_ms = time.time() * 1000
    instance.say("refused: a prompt of the other's\n")
    handle = cast(PromptHandle, SimpleNamespace(began_at_ms=None, ended_at_ms=None, skew_ms=0.0))
    follower.follow(other, instance.session, handle, posted_ms=posted_ms, secret=None)
    time.sleep(0.2)
    instance.say("mine again\n")
    mine.end()

    assert whole(runtime, mine.claim).lines == ("mine", "mine again")
    assert lines(runtime, other) == ()


def test_an_instance_that_is_gone_is_let_go(
    runtime: BrokerlessRuntime, follower: PrintFollower, instance: Instance
) -> None:
    job = Running(follower, instance, claimed(runtime.ledger))
    job.begin()
    instance.say("last words\n")
    until(lambda: lines(runtime, job.claim), timeout_s=10, what="the line")
    instance.is_away = True
    job.end()
    looks = instance.looks
    until(lambda: instance.looks >= looks + MOST_VAIN, timeout_s=10, what="looks in vain")
    found = runtime.ledger.job_logs.read(job.claim.job_id)
    assert found is not None
    assert not found.is_whole, "what came last may be missing"
    assert found.number == job.claim.attempt * PIECES + 1
