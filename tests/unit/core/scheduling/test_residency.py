"""Which model files an instance is likely to hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.residency import USUAL_BYTES, ModelFile, Residency
from tests.unit.core.scheduling.random_fleets import QUICK

SIZES = {"a": 2, "b": 3, "c": 4, "d": 9}
PROMPTS = st.lists(st.sets(st.sampled_from("abcd"), max_size=3), max_size=12)


def held(residency: Residency) -> str:
    return "".join(file.name for file in residency.files)


def after(*prompts: str, budget: int = 9) -> Residency:
    residency = Residency(budget_bytes=budget)
    for names in prompts:
        residency = residency.after(names, SIZES)
    return residency


class TestAfter:
    def test_the_most_recently_used_come_first(self) -> None:
        assert held(after("a", "b", "a")) == "ab"

    def test_what_does_not_fit_beside_them_has_gone(self) -> None:
        assert held(after("a", "b", "c")) == "cba"
        assert held(after("a", "b", "c", budget=8)) == "cb"

    def test_what_was_used_before_something_that_has_gone_has_gone_too(self) -> None:
        assert held(after("a", "c", "b", budget=6)) == "b"

    def test_what_a_prompt_needs_is_held_in_any_case(self) -> None:
        assert held(after("ab", "d", budget=5)) == "d"

    def test_a_prompt_without_models_changes_nothing(self) -> None:
        assert after("a", "b", "") == after("a", "b")

    def test_a_file_of_unknown_size_is_taken_to_be_a_usual_one(self) -> None:
        assert Residency().after(["x"]).files == (ModelFile(name="x", size_bytes=USUAL_BYTES),)
        assert held(Residency(budget_bytes=2 * USUAL_BYTES - 1).after(["x"]).after(["y"])) == "y"

    @QUICK
    @given(PROMPTS, st.integers(0, 20))
    def test_never_more_than_the_budget_but_for_the_last_prompt(self, prompts: list[set[str]], budget: int) -> None:
        residency = Residency(budget_bytes=budget)
        for names in prompts:
            residency = residency.after(names, SIZES)
            assert residency.holds(names)
            beside = [file for file in residency.files if file.name not in names]
            assert not beside or sum(file.size_bytes for file in residency.files) <= budget


class TestHolds:
    def test_all_of_them(self) -> None:
        assert after("a", "b").holds("ab")
        assert not after("a", "b").holds("ac")

    def test_none(self) -> None:
        assert Residency().holds([])


class TestAtRisk:
    def test_those_that_a_load_would_push_out(self) -> None:
        assert after("a", "b", "c").at_risk(1) == {"a"}
        assert after("a", "b", "c").at_risk(3) == {"a", "b"}
        assert after("a", "b", "c").at_risk(9) == {"a", "b", "c"}

    def test_none_where_there_is_room(self) -> None:
        assert after("a", "b").at_risk(4) == frozenset()

    @QUICK
    @given(PROMPTS, st.integers(1, 20))
    def test_they_are_what_goes_with_the_next_load(self, prompts: list[set[str]], size: int) -> None:
        residency = after(*("".join(names) for names in prompts), budget=12)
        loaded = residency.after(["new"], {"new": size})
        assert residency.names - loaded.names == residency.at_risk(size)


class TestDoubted:
    def test_what_was_used_no_later_has_gone_too(self) -> None:
        assert held(after("a", "b", "c").doubted("b")) == "c"

    def test_others_change_nothing(self) -> None:
        assert after("a", "b").doubted("x") == after("a", "b")
