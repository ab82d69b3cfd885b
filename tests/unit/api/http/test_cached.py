"""Values that are kept for a moment: how long, and how little of the time goes into loading them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.http import cached
from api.http.cached import LOADING_SHARE, LONGEST_S, CachedValue
from tests.makers import Stopwatch


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(cached, "time", watch)
    return watch


class Loads:
    """Loads the numbers from 1 on, each of which takes so long."""

    def __init__(self, watch: Stopwatch, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self._watch = watch
        self._loaded = 0

    def __call__(self) -> int:
        self._watch.now_s += self.takes_s
        self._loaded += 1
        return self._loaded


def test_it_is_loaded_again_when_it_is_old(watch: Stopwatch) -> None:
    kept, always = CachedValue(Loads(watch), max_age_s=60.0), CachedValue(Loads(watch), max_age_s=0.0)
    assert [kept.get(), kept.get()] == [1, 1]
    watch.now_s += 60.0
    assert kept.get() == 2
    assert [always.get(), always.get()] == [1, 2]


def test_one_that_cannot_be_loaded_is_tried_again() -> None:
    answers: Iterator[LookupError | str] = iter([LookupError("away"), "here"])

    def load() -> str:
        answer = next(answers)
        if isinstance(answer, LookupError):
            raise answer
        return answer

    value = CachedValue(load, max_age_s=60.0)
    with pytest.raises(LookupError):
        value.get()
    assert value.get() == "here"


def test_one_that_is_dear_is_used_for_longer(watch: Stopwatch) -> None:
    value = CachedValue(Loads(watch, takes_s=0.25), max_age_s=1.0)
    assert value.get() == 1
    watch.now_s += 0.25 / LOADING_SHARE - 0.01
    assert (value.get(), value.renew_if_due()) == (1, False)
    watch.now_s += 0.01
    assert (value.renew_if_due(), value.get()) == (True, 2)


def test_one_that_is_cheap_may_be_renewed_before_it_is_old(watch: Stopwatch) -> None:
    value = CachedValue(Loads(watch, takes_s=0.01), max_age_s=1.0)
    assert value.get() == 1
    watch.now_s += 0.1
    assert (value.renew_if_due(), value.get()) == (True, 2)


def test_one_that_took_far_too_long_once_is_not_kept_for_ever(watch: Stopwatch) -> None:
    value = CachedValue(Loads(watch, takes_s=60.0), max_age_s=1.0)
    assert value.get() == 1
    watch.now_s += LONGEST_S
    assert value.get() == 2


def test_whoever_needs_it_now_has_it_now(watch: Stopwatch) -> None:
    value = CachedValue(Loads(watch, takes_s=1.0), max_age_s=60.0)
    assert value.get() == 1
    value.renew()
    assert value.get() == 2
