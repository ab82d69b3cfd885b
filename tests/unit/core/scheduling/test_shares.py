"""Whose turn it is among tenants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.shares import HALF_LIFE_S, by_turn, decayed, in_turn
from tests.unit.core.scheduling.random_fleets import QUICK

USED_S = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), max_size=4)


class TestInTurn:
    def test_one_tenant_always_has_its_turn(self) -> None:
        assert in_turn(["a"], {"a": 1e9}, 0.0) == {"a"}

    def test_nobody_waits(self) -> None:
        assert in_turn([], {"a": 1.0}, 5.0) == frozenset()

    def test_those_within_a_quantum_of_the_least(self) -> None:
        assert in_turn("abc", {"a": 10.0, "b": 15.0, "c": 15.1}, 5.0) == {"a", "b"}

    def test_one_that_used_nothing_is_first(self) -> None:
        assert in_turn("ab", {"a": 10.0}, 5.0) == {"b"}

    def test_one_that_does_not_wait_keeps_nobody_back(self) -> None:
        assert in_turn("ab", {"a": 10.0, "b": 12.0, "c": 0.0}, 5.0) == {"a", "b"}

    @QUICK
    @given(USED_S, st.floats(0, 1e3))
    def test_somebody_has_a_turn_and_no_one_who_used_more_before_one_who_used_less(
        self, used_s: dict[str, float], quantum_s: float
    ) -> None:
        first = in_turn("abcd", used_s, quantum_s)
        assert first
        most_s = max(used_s.get(tenant, 0.0) for tenant in first)
        assert all(used_s.get(tenant, 0.0) > most_s for tenant in frozenset("abcd") - first)


class TestDecay:
    def test_half_is_left_after_the_half_life(self) -> None:
        assert decayed(8.0, HALF_LIFE_S) == pytest.approx(4.0)
        assert decayed(8.0, 3 * HALF_LIFE_S) == pytest.approx(1.0)

    def test_a_clock_that_was_set_back_changes_nothing(self) -> None:
        assert decayed(8.0, -1_000.0) == 8.0


class TestByTurn:
    def test_those_whose_turn_it_is_come_first(self) -> None:
        groups = [set(group) for group in by_turn("abc", {"a": 10.0, "b": 15.0, "c": 15.1}, lambda: 5.0)]
        assert groups == [{"a", "b"}, {"c"}]

    def test_all_have_it_at_once(self) -> None:
        assert [set(group) for group in by_turn("ab", {"a": 1.0, "b": 2.0}, lambda: 5.0)] == [{"a", "b"}]

    def test_where_they_take_none_nobody_asks_what_a_quantum_is(self) -> None:
        def never() -> float:
            raise AssertionError("nobody has to know")

        assert list(by_turn("ab", None, never)) == ["ab"]
        assert list(by_turn("a", {"a": 1.0}, never)) == ["a"]
