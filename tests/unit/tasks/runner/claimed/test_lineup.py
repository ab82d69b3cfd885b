"""Who is posted next, and when several jobs are claimed ahead so that no GPU waits for input files."""

from __future__ import annotations

from typing import Any

import pytest

from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from tasks.runner.claimed import lineup as lineup_module
from tasks.runner.claimed.lineup import KEPT, MOST_LEAD_S, Leads, Lineup, next_to_post, wants_more
from tasks.runner.claimed.run import Run
from tasks.runner.run_times import Durations
from tests.makers import Stopwatch

NOW_S = 1_000.0


def run(job_id: str = "j", *, run_s: float = 1.0, load_s: float = 0.0, collected: bool = False, **fields: Any) -> Run:
    claim = Claim(
        job_id=job_id,
        attempt=1,
        graph="{}",
        nodes_total=1,
        has_webhook=False,
        has_secrets=False,
        run_s=run_s,
        load_s=load_s,
    )
    made = Run(claim=claim, instance=_INSTANCE, **fields)
    if collected:
        made.collected.set()
    return made


_INSTANCE: Any = InstanceRecord.__new__(InstanceRecord)


def fetching(seconds: float, **fields: Any) -> Run:
    """One whose files have been on their way for so long."""
    return run(fetched_since_s=NOW_S - seconds, **fields)


def running(passed_s: float = 0.0, **fields: Any) -> Run:
    return run(is_ready=True, is_posted=True, started_s=NOW_S - passed_s, **fields)


class TestNext:
    @pytest.mark.parametrize(
        ("others", "is_posted"),
        [
            ([], True),
            ([running()], True),
            ([run(is_ready=True, is_posted=True)], False),
            ([run(is_ready=True, is_posted=True, collected=True)], True),
            ([running(names_own_files=True)], False),
            ([running(names_own_files=True, collected=True)], True),
            ([fetching(1.0)], True),
            ([run(is_ready=True, is_over=True)], True),
        ],
    )
    def test_only_while_none_waits_in_comfyui(self, others: list[Run], is_posted: bool) -> None:
        mine = run(is_ready=True)
        assert next_to_post([*others, mine]) is (mine if is_posted else None)

    def test_the_oldest_that_is_ready(self) -> None:
        late, first, second = fetching(1.0), run(is_ready=True), run(is_ready=True)
        assert next_to_post([late, first, second]) is first


class TestMore:
    def wants(self, *runs: Run, lead_s: float = 2.0, look_ahead_s: float = 2.0, most: int = 16) -> bool:
        return wants_more(
            runs,
            now_s=NOW_S,
            lead_s=lead_s,
            look_ahead_s=look_ahead_s,
            most=most,
            expect=lambda run: run.claim.run_s,
        )

    def test_where_files_come_at_once_it_is_left_to_the_deck(self) -> None:
        assert not self.wants(lead_s=0.0)
        assert not self.wants(fetching(0.09, run_s=0.1), lead_s=0.0)
        assert self.wants(fetching(0.11, run_s=0.1), lead_s=0.0)

    @pytest.mark.parametrize(("count", "wanted"), [(16, True), (17, False)])
    def test_until_there_is_work_for_as_long_as_files_take(self, count: int, wanted: bool) -> None:
        assert self.wants(*[run(run_s=0.25) for _ in range(count)], most=64) is wanted

    def test_what_the_running_one_has_left_counts(self) -> None:
        assert self.wants(running(6.1, run_s=10.0))
        assert not self.wants(running(5.9, run_s=10.0))
        assert self.wants(running(99.0, run_s=10.0), run(run_s=4.0)), "one that is late is about to end"

    def test_what_has_left_the_gpu_does_not(self) -> None:
        assert self.wants(running(run_s=10.0, collected=True))

    def test_so_many_at_most(self) -> None:
        assert self.wants(*[run(run_s=0.0) for _ in range(3)], running(run_s=0.0), most=4)
        assert not self.wants(*[run(run_s=0.0) for _ in range(4)], most=4)

    @pytest.mark.parametrize(("lead_s", "passed_s", "wanted"), [(2, 2.9, False), (2, 3.1, True), (0.2, 0.9, False)])
    def test_nobody_knows_when_late_files_come(self, lead_s: float, passed_s: float, wanted: bool) -> None:
        """A job of a minute whose files are due keeps the GPU for others no longer than that."""
        assert self.wants(fetching(passed_s, run_s=60.0), lead_s=lead_s) is wanted


class TestLeads:
    def test_the_slowest_of_the_newest_counts(self) -> None:
        leads = Leads()
        assert leads.expect() == 0.0
        for seconds in (2.0, 0.5, 0.0):
            leads.learn(seconds)
        assert leads.expect() == 2.0
        for _ in range(KEPT - 2):
            leads.learn(0.0)
        assert leads.expect() == 0.5
        leads.learn(0.0)
        assert leads.expect() == 0.0

    def test_some_time_is_not_worth_noting_and_none_is_endless(self) -> None:
        leads = Leads()
        leads.learn(0.09)
        assert leads.expect() == 0.0
        leads.learn(600.0)
        assert leads.expect() == MOST_LEAD_S


class TestLineup:
    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(lineup_module, "time", watch)
        return watch

    @pytest.fixture
    def lineup(self, watch: Stopwatch) -> Lineup:
        assert watch.now_s == NOW_S
        return Lineup(Durations(), look_ahead_s=2.0, most=16)

    def test_how_long_files_took_is_learned(self, lineup: Lineup, watch: Stopwatch) -> None:
        first, second = run("a", run_s=0.5, fetched_since_s=NOW_S), run("b", run_s=0.5)
        lineup.add(first)
        watch.now_s += 3.0
        assert lineup.note_ready(first)
        lineup.add(second)
        assert lineup.wants_more()
        assert first.fetched_since_s is None
        assert first.is_ready
        for _ in range(KEPT):
            assert lineup.note_ready(second)
        assert not lineup.wants_more()

    def test_what_took_how_long_here_goes_before_what_the_ledger_knows(self, watch: Stopwatch) -> None:
        durations = Durations()
        lineup = Lineup(durations, look_ahead_s=2.0, most=16)
        lineup.add(run("a", run_s=50.0, load_s=10.0, shape="s"))
        lineup.add(run("b", run_s=2.0, shape="other"))
        lineup.add(running(run_s=9.0))
        assert lineup.waiting_s() == 62.0
        durations.learn("s", 3.0)
        assert lineup.waiting_s() == 5.0
        assert watch.slept_s == []

    def test_each_is_posted_once(self, lineup: Lineup) -> None:
        mine = run(is_ready=True)
        lineup.add(mine)
        assert lineup.take_next() is mine
        assert mine.is_posted
        assert lineup.take_next() is None

    def test_one_that_is_stopped_is_not_posted(self, lineup: Lineup) -> None:
        stopped, posted = run("a", fetched_since_s=NOW_S), run("b", is_ready=True, is_posted=True)
        for each in (stopped, posted):
            lineup.add(each)
        assert lineup.stop_early(stopped)
        assert not lineup.stop_early(stopped), "it ends once"
        assert not lineup.stop_early(posted), "its prompt is to be interrupted"
        assert not lineup.note_ready(stopped)
        assert not stopped.is_ready

    def test_who_was_posted_before(self, lineup: Lineup) -> None:
        late, mine = run("a", is_posted=True, posted_s=3.0), run("b", is_posted=True, posted_s=2.0)
        early, waiting = run("c", is_posted=True, posted_s=1.0), run("d")
        for each in (late, mine, early, waiting):
            lineup.add(each)
        assert lineup.posted_before(mine) == [early]

    def test_a_task_takes_up_the_oldest(self, lineup: Lineup) -> None:
        attended, first, second = run("a", is_attended=True), run("b"), run("c")
        for each in (attended, first, second):
            lineup.add(each)
        assert lineup.unattended() == [first, second]
        assert lineup.take_unattended() is first
        assert lineup.remove(first)
        assert not lineup.remove(second)
        assert lineup.take_unattended() is None
        assert lineup.has_next()
        assert not lineup.is_empty()
        lineup.remove(attended)
        assert lineup.is_empty()
        assert not lineup.has_next()
