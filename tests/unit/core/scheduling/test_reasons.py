"""Sentences that say why a job waits."""

from __future__ import annotations

import pytest

from core.scheduling.reasons import Reason, about, sentence


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "less than 1 s"),
        (1.4, "about 1 s"),
        (9.4, "about 9 s"),
        (9.5, "about 10 s"),
        (57.4, "about 55 s"),
        (57.6, "about 1 min"),
        (100.0, "about 2 min"),
        (3569.0, "about 59 min"),
        (3571.0, "about 1 h"),
        (9000.0, "about 2 h"),
    ],
)
def test_durations_are_rounded_as_one_would_say_them(seconds: float, said: str) -> None:
    assert about(seconds) == said


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ((), "its models"),
        (("sdxl.safetensors",), "sdxl.safetensors"),
        (("a.safetensors", "b.safetensors"), "a.safetensors and b.safetensors"),
        (("a.safetensors", "b", "c", "d"), "a.safetensors and 3 more files"),
    ],
)
def test_models_are_called_by_their_files(files: tuple[str, ...], named: str) -> None:
    reason = Reason(code="held", models="m", gpu="gpu3@a", in_s=4.2)

    assert sentence(reason, {"m": files}) == f"Waits for gpu3@a, which holds {named} and is free in about 4 s."


def test_one_job_is_told_in_the_singular() -> None:
    assert sentence(Reason(code="behind", before=1), {}) == "1 job like it goes first."
    assert sentence(Reason(code="far", before=5000), {}) == "More than 5,000 jobs begin before it."
