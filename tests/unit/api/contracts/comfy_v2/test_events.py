"""What of a waiting job's place is news to a stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from api.contracts.comfy_v2.events import _is_news
from api.contracts.comfy_v2.views import place_view
from api.service.estimates import Place
from core.scheduling.reasons import Reason

PLACE = Place(
    position=3,
    starts_in_s=40.0,
    reason=Reason(code="held", models="a", gpu="gpu0@here", in_s=40.0),
    sentence="Waits for gpu0@here, which holds a.safetensors and is free in about 40 s.",
)


def at(**changes: object) -> Place:
    return replace(PLACE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        at(position=2),
        at(position=None),
        at(starts_in_s=20.0),
        at(starts_in_s=None),
        at(reason=replace(PLACE.reason, code="earlier")),
        at(reason=replace(PLACE.reason, gpu="gpu1@here")),
    ],
)
def test_a_place_a_wait_or_a_reason_that_changed_is_news(other: Place) -> None:
    assert _is_news(other, PLACE, 0.0)
    assert _is_news(PLACE, other, 0.0)


def test_the_first_place_is_news_and_time_that_passes_is_none() -> None:
    assert _is_news(PLACE, None, 0.0)
    assert not _is_news(PLACE, PLACE, 0.0)
    later = at(starts_in_s=20.0, sentence="Waits for gpu0@here, which holds a.safetensors and is free in about 20 s.")
    assert not _is_news(later, PLACE, 20.0)
    assert _is_news(PLACE, PLACE, 20.0), "it should be 20 s nearer by now"


def test_a_place_is_told_in_both_spellings() -> None:
    assert place_view(PLACE) == {
        "queue_position": 3,
        "estimated_wait_ms": 40_000,
        "queue": {"position": 3, "starts_in_s": 40.0, "reason": PLACE.sentence, "reason_code": "held"},
    }
    nowhere = place_view(at(position=None, starts_in_s=None))
    assert (nowhere["queue_position"], nowhere["estimated_wait_ms"]) == (None, None)
    assert (nowhere["queue"]["position"], nowhere["queue"]["starts_in_s"]) == (None, None)
