"""Signed links: bound to one asset and one end, under the keys of a ring."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlsplit

import pytest

from core.clock import now_ms
from core.links import EXPIRES, SIGNATURE, Links, LinkSigner

OLD, NEW = os.urandom(32), os.urandom(32)
FAR_MS = 10**15


def signed(signer: LinkSigner, asset_id: str = "a1", until_ms: int = FAR_MS) -> tuple[str, str]:
    """The end and the signature of a link, as text."""
    link = Links(base_url="http://me", signer=signer).content(asset_id, until_ms=until_ms)
    parts = urlsplit(link.url)
    assert link.url.startswith(f"http://me/api/v2/assets/{asset_id}/content?")
    query = parse_qs(parts.query)
    assert set(query) == {EXPIRES, SIGNATURE}
    assert query[EXPIRES] == [str(link.expires_at_ms)]
    return query[EXPIRES][0], query[SIGNATURE][0]


def test_a_link_is_good_for_its_asset_and_its_end_alone() -> None:
    signer = LinkSigner([NEW], lifetime_s=60)
    expires, signature = signed(signer)
    changed = ("B" if signature[0] == "A" else "A") + signature[1:]

    assert signer.is_genuine("a1", expires, signature)
    for asset_id, end, text in (
        ("a2", expires, signature),
        ("a1", str(int(expires) + 1), signature),
        ("a1", f"0{expires}", signature),
        ("a1", "", signature),
        ("a1", expires, changed),
        ("a1", expires, signature[:-1]),
        ("a1", expires, signature + "="),
        ("a1", expires, ""),
        ("a1", expires, "é\udcff"),
        # The line feed between the two parts cannot be moved.
        (f"a1\n{expires[:3]}", expires[3:], signature),
    ):
        assert not signer.is_genuine(asset_id, end, text), (asset_id, end, text)


def test_links_outlive_a_change_of_keys_and_end_with_their_key() -> None:
    before = signed(LinkSigner([OLD], lifetime_s=60))

    assert LinkSigner([NEW, OLD], lifetime_s=60).is_genuine("a1", *before)
    assert not LinkSigner([NEW], lifetime_s=60).is_genuine("a1", *before)
    after = signed(LinkSigner([NEW, OLD], lifetime_s=60))
    assert LinkSigner([NEW], lifetime_s=60).is_genuine("a1", *after)


@pytest.mark.parametrize("lifetime_s", [1.0, 60.0, 604_800.0])
def test_a_link_lives_as_long_as_was_set_and_up_to_a_tenth_more(lifetime_s: float) -> None:
    signer = LinkSigner([NEW], lifetime_s=lifetime_s)
    before_ms = now_ms()
    end_ms = signer.end_of(FAR_MS)
    after_ms = now_ms()

    assert before_ms + lifetime_s * 1000 <= end_ms <= after_ms + lifetime_s * 1100 + 1


def test_no_link_outlives_its_file() -> None:
    signer = LinkSigner([NEW], lifetime_s=60)

    assert signer.end_of(123_456) == 123_456
    assert signed(signer, until_ms=123_456)[0] == "123456"


def test_links_that_are_made_together_are_equal() -> None:
    signer = LinkSigner([NEW], lifetime_s=10 * 24 * 3600)
    # Only at the end of a day, by the clock of the links, can two differ.
    assert len({signed(signer) for _ in range(3)}) <= 2


def test_without_keys_a_link_is_the_plain_address() -> None:
    link = Links(base_url="http://me").content("a b", until_ms=5)

    assert (link.url, link.expires_at_ms) == ("http://me/api/v2/assets/a%20b/content", 5)
