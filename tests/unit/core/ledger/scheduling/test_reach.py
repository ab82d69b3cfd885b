"""Which lines a sort of instance can run, and whose models it holds."""

from __future__ import annotations

import pytest

from core.ledger.scheduling import reach as reach_module
from core.ledger.scheduling.lines import LineKind
from core.ledger.scheduling.reach import Outgrown, Reach, Sort
from core.records.requirements import Requirements
from core.scheduling.lines import NO_MODELS

ANY = Sort(None, None, None)
PLAIN = LineKind(priority=0)
SDXL = LineKind(priority=0, files=("sdxl", "vae"))
URGENT = LineKind(priority=1, files=("sdxl", "vae"))
PINNED = LineKind(priority=0, files=("sdxl", "vae"), catalogues="a,b")
POOLED = LineKind(priority=0, files=("flux",), requires=Requirements(pool="big"))


@pytest.fixture
def reach() -> Reach:
    return Reach(dict(enumerate((PLAIN, SDXL, URGENT, PINNED, POOLED))))


def test_an_instance_runs_what_suits_its_nodes_and_its_pool(reach: Reach) -> None:
    assert reach.able(ANY) == {0, 1, 2}
    assert reach.able(Sort("b", "big", None)) == {0, 1, 2, 3, 4}
    assert reach.able(Sort("c", "small", None)) == {0, 1, 2}


def test_holders_are_of_use_to_the_work_that_they_can_run(reach: Reach) -> None:
    assert set(reach.works(SDXL.models, ANY)) == {SDXL.models}
    assert set(reach.works(SDXL.models, Sort("a", None, None))) == {SDXL.models, PINNED.work}
    assert set(reach.works("of no line", ANY)) == {"of no line"}


def test_lines_are_kept_off_kinds_that_were_too_small(reach: Reach) -> None:
    small, smaller, big = (Sort("a", None, vram, gpu) for gpu, vram in (("S", 12), ("XS", 8), ("L", 24)))
    silent = Sort("a", None, None, "?")
    wary = LineKind(priority=0, files=("sdxl", "vae"), avoids=(Outgrown("S", 12),))
    assert not reach.is_wary
    assert reach.kept_off(small) == frozenset()
    reach = Reach({0: SDXL, 1: wary})
    assert reach.is_wary
    assert [reach.kept_off(sort) for sort in (small, smaller, big, silent)] == [{1}, {1}, set(), set()]
    assert reach.able(small) == {0, 1}
    assert reach.without_choice([small, smaller]) == {1}
    assert reach.without_choice([small, big]) == frozenset()
    assert set(reach.works(SDXL.models, small)) == {SDXL.models, wary.work}
    assert set(reach.works(SDXL.models, small, reach.kept_off(small))) == {SDXL.models}
    assert set(reach.works(SDXL.models, big, reach.kept_off(big))) == {SDXL.models, wary.work}


def test_only_whole_sets_are_held(reach: Reach) -> None:
    assert reach.held(frozenset({"sdxl"}), frozenset()) == (frozenset({NO_MODELS}), frozenset[str]())
    holds, at_risk = reach.held(frozenset({"sdxl", "vae", "flux"}), frozenset({"vae"}))
    assert holds == {NO_MODELS, SDXL.models, PINNED.work, POOLED.work}
    assert at_risk == {SDXL.models}
    assert reach.sets(["vae", "sdxl"]) == {SDXL.models}


def test_answers_are_kept_but_not_without_end(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "KEPT", 2)
    for catalogue in ("a", "b", "c"):
        assert 3 in reach.able(Sort(catalogue, None, None)) or catalogue == "c"
    assert len(reach._able) == 1
