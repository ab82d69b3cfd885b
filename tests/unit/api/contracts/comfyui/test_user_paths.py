"""Paths of users' files."""

from __future__ import annotations

import pytest

from api.contracts.comfyui.user_paths import user_folder, user_path
from api.http.errors import BadParameter


@pytest.mark.parametrize("path", ["comfy.settings.json", "workflows/a b.json", "workflows/Ä/.index.json"])
def test_good_ones_stay(path: str) -> None:
    assert user_path(path) == path


@pytest.mark.parametrize(
    "path", ["", "/x", "x/", "a//b", "..", "a/../b", "a/. /b", "a\\b", "a\0b", "a\nb", "\ud800", "x" * 256]
)
def test_others_are_refused(path: str) -> None:
    with pytest.raises(BadParameter):
        user_path(path)


def test_a_folder_may_be_the_top() -> None:
    assert [user_folder(text) for text in ("", "/", ".", "workflows/", "/a/b")] == ["", "", "", "workflows", "a/b"]
    with pytest.raises(BadParameter):
        user_folder("a/../..")
