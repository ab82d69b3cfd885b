"""What a source offers beside what the manifest says."""

from __future__ import annotations

import pytest

from comfy.model_files.offers import Wanted, expected_sha256
from comfy.model_files.remote import Offer
from core.errors import ModelRefused

A, B = "a" * 64, "b" * 64


def expected(*, offered: str | None, wanted: str | None, sizes: tuple[int | None, int | None] = (None, None)) -> str:
    offer = Offer(size_bytes=sizes[0], has_ranges=True, validator=None, sha256=offered)
    return expected_sha256(offer, Wanted(sha256=wanted, size_bytes=sizes[1]), shown="https://host/x")


@pytest.mark.parametrize(("offered", "wanted"), [(A, None), (None, A), (A, A)])
def test_the_hash_is_who_ever_says_it(offered: str | None, wanted: str | None) -> None:
    assert expected(offered=offered, wanted=wanted, sizes=(3, 3)) == A


def test_a_hash_that_nobody_says_is_asked_for() -> None:
    with pytest.raises(ModelRefused, match="enter it in the manifest"):
        expected(offered=None, wanted=None)


def test_a_hub_that_has_another_file_is_told_before_it_is_fetched() -> None:
    with pytest.raises(ModelRefused, match=f"its sha256 is {A}, and the manifest says {B}"):
        expected(offered=A, wanted=B)


@pytest.mark.parametrize("sizes", [(None, 4), (4, None), (4, 4)])
def test_sizes_that_nobody_says_do_not_differ(sizes: tuple[int | None, int | None]) -> None:
    assert expected(offered=None, wanted=A, sizes=sizes) == A


def test_another_size_is_told() -> None:
    with pytest.raises(ModelRefused, match="has 3 bytes, and the manifest says 4"):
        expected(offered=None, wanted=A, sizes=(3, 4))
