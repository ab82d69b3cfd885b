"""What is told of input files that are on their way."""

from __future__ import annotations

import pytest

from core.ledger.claims import Claim
from core.records.job import InputRef
from core.records.progress import Progress
from tasks.runner.claimed import arrivals as arrivals_module
from tasks.runner.claimed.arrivals import TELL_S, ArrivalNotes, Arrivals
from tests.ledger_moves import claimed
from tests.makers import BrokerlessRuntime, Stopwatch
from tests.waiting import until


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    """A job with two input files."""
    return claimed(runtime.ledger, inputs=tuple(InputRef(name=f"job/{key}.png", key=f"k/{key}") for key in "ab"))


def note_of(runtime: BrokerlessRuntime, claim: Claim) -> str | None:
    progress = runtime.ledger.jobs.get(claim.job_id).progress
    return None if progress is None else progress.note


class TestSentence:
    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(arrivals_module, "time", watch)
        return watch

    def test_how_far_they_are_and_how_long_it_takes(self, claim: Claim, watch: Stopwatch) -> None:
        arrivals = Arrivals(claim)
        assert arrivals.sentence() == "Fetching its input files."
        first, second = arrivals.of("k/a"), arrivals.of("k/b")
        first(0, 300)
        assert arrivals.sentence() == "Fetching its input files.", "of the other one nothing is known"
        second(0, 100)
        assert arrivals.sentence() == "Fetching its input files: 0 %."
        watch.now_s += 6
        first(100, 300)
        assert arrivals.sentence() == "Fetching its input files: 25 %, about 20 s."

    def test_a_file_that_was_here(self, claim: Claim, watch: Stopwatch) -> None:
        arrivals = Arrivals(claim)
        arrivals.of("k/a")(0, 0)
        assert arrivals.sentence() == "Fetching its input files."
        arrivals.of("k/b")(1, 2)
        assert arrivals.sentence().startswith("Fetching its input files: 50 %")

    def test_one_file_alone(self, runtime: BrokerlessRuntime) -> None:
        alone = claimed(runtime.ledger, inputs=(InputRef(name="job/a.png", key="k/a"),))
        assert Arrivals(alone).sentence() == "Fetching its input file."


def test_files_that_take_long_are_told_of_and_no_others(
    runtime: BrokerlessRuntime, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals_module, "TELL_S", 0.05)
    notes, quick = ArrivalNotes(runtime), claimed(runtime.ledger, inputs=claim.inputs)
    with notes.watched(claim) as arrivals:
        with notes.watched(quick):
            pass
        arrivals.of("k/a")(1, 4)
        until(lambda: note_of(runtime, claim), what="the note")
        assert note_of(runtime, claim) == "Fetching its input files."
        arrivals.of("k/b")(1, 4)
        until(lambda: "25 %" in (note_of(runtime, claim) or ""), what="how far it is")
    until(lambda: note_of(runtime, claim) is None, what="the note to go")
    assert runtime.ledger.jobs.get(quick.job_id).progress is None
    sent = [notice for notice in runtime.noticed.sent if notice.job_id == claim.job_id]
    told = [Progress.from_json(notice.data).note for notice in sent if notice.kind == "progress"]
    assert (told[0], told[-1]) == ("Fetching its input files.", None)


def test_what_is_over_within_a_second_costs_nothing(runtime: BrokerlessRuntime, claim: Claim) -> None:
    assert TELL_S == 1.0
    with ArrivalNotes(runtime).watched(claim) as arrivals:
        assert not arrivals.is_slow
    assert runtime.ledger.jobs.get(claim.job_id).progress is None
