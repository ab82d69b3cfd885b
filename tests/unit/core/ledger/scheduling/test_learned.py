"""What a process knows of runs and loads, and how it hears of what is new."""

from __future__ import annotations

import pytest
from sqlalchemy import true, update

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.learned_tables import durations
from core.ledger.durations import DEFAULT_S
from core.ledger.model_sets import load_subject, run_subject
from core.ledger.scheduling import learned
from core.ledger.scheduling.learned import KNOWN_S, OVERLAP_MS, USUAL_LOAD_S, Costs, LearnedCosts
from tests.makers import Stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(learned, "time", watch)
    return watch


def costs_of(ledger: Ledger, known: LearnedCosts, *models: str) -> Costs:
    with ledger.database.read() as connection:
        return known.of(connection, models)


def test_what_is_new_is_heard_of_after_a_while(ledger: Ledger, watch: Stopwatch) -> None:
    known = LearnedCosts()
    ledger.durations.learn_all({run_subject("a"): 4.0}, gpu="RTX")
    assert costs_of(ledger, known, "a").run_s("a") == 4.0
    ledger.durations.learn_all({run_subject("a"): 6.0, load_subject("a"): 9.0}, gpu="RTX")
    assert costs_of(ledger, known, "a").run_s("a") == 4.0
    watch.now_s += KNOWN_S
    costs = costs_of(ledger, known, "a")
    assert (costs.run_s("a"), costs.load_s("a"), costs.load_s("a", "RTX")) == (5.0, 9.0, 9.0)


def test_what_was_learned_long_ago_is_not_read_again_and_what_was_written_late_is(
    ledger: Ledger, watch: Stopwatch
) -> None:
    known = LearnedCosts()
    ledger.durations.learn_all({run_subject("a"): 4.0, run_subject("b"): 4.0}, gpu="RTX")
    _set(ledger, 4.0, ms_ago=3 * OVERLAP_MS)
    costs_of(ledger, known, "a", "b")
    _set(ledger, 9.0, ms_ago=3 * OVERLAP_MS)
    watch.now_s += KNOWN_S
    assert costs_of(ledger, known, "a", "b").run_s("a") == 4.0
    _set(ledger, 9.0, ms_ago=OVERLAP_MS // 2, of="b")
    watch.now_s += KNOWN_S
    costs = costs_of(ledger, known, "a", "b")
    assert (costs.run_s("a"), costs.run_s("b")) == (4.0, 9.0)


def _set(ledger: Ledger, average_s: float, *, ms_ago: int, of: str | None = None) -> None:
    """Set what was learned of the runs of one model set or of all, and when."""
    values = {"average_s": average_s, "updated_at_ms": now_ms() - ms_ago}
    wanted = true() if of is None else durations.c.what == run_subject(of)
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(durations).where(wanted).values(**values))


def test_another_kind_of_gpu_joins_those_that_are_known(ledger: Ledger, watch: Stopwatch) -> None:
    known = LearnedCosts()
    ledger.durations.learn_all({run_subject("a"): 4.0}, gpu="RTX")
    costs_of(ledger, known, "a")
    ledger.durations.learn_all({run_subject("a"): 8.0}, gpu="GTX")
    watch.now_s += KNOWN_S
    costs = costs_of(ledger, known, "a")
    assert (costs.run_s("a", "RTX"), costs.run_s("a", "GTX"), costs.run_s("a")) == (4.0, 8.0, 6.0)


def test_answers_given_before_are_given_again_only_where_nothing_is_new() -> None:
    costs = Costs({load_subject(models): {"RTX": 9.0} for models in "ab"})
    assert [costs.load_s(models) for models in "ab"] == [9.0, 9.0]
    newer = costs.with_newer({load_subject("a"): {"RTX": 3.0}})
    assert [newer.load_s(models) for models in "ab"] == [3.0, 9.0]
    assert set(newer._loads) == {("a", None), ("b", None)}
    assert set(costs.with_newer({load_subject("a"): {"RTX": 3.0}})._loads) == {("b", None)}


def test_a_model_set_that_is_new_is_read_at_once(ledger: Ledger, watch: Stopwatch) -> None:
    known = LearnedCosts()
    ledger.durations.learn_all({run_subject("b"): 3.0}, gpu="RTX")
    assert costs_of(ledger, known, "a").run_s("a") == DEFAULT_S
    costs = costs_of(ledger, known, "a", "b")
    assert (costs.run_s("b"), costs.load_s("b")) == (3.0, USUAL_LOAD_S)


def test_what_has_not_changed_changes_nothing(ledger: Ledger, watch: Stopwatch) -> None:
    known = LearnedCosts()
    ledger.durations.learn_all({run_subject("a"): 4.0}, gpu="RTX")
    before = costs_of(ledger, known, "a")
    watch.now_s += KNOWN_S
    assert costs_of(ledger, known, "a") is before
