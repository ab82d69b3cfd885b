"""Names under which input files are put on an instance."""

from __future__ import annotations

import pytest

from workflows.graphs.file_names import safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.png", "photo.png"),
        ("My Photo (1).JPEG", "My_Photo_1.JPEG"),
        ("../../etc/passwd", "passwd"),
        ("C:\\dir\\x.webp", "x.webp"),
        ("x.png [output]", "x.pngoutput"),
        (".hidden", "file.hidden"),
        ("été.png", "t.png"),
        ("", "file"),
        ("..", "file"),
        ("a\x00b.png", "a_b.png"),
        ("100%2f.png", "100_2f.png"),
    ],
)
def test_names_become_harmless_and_keep_their_extension(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_names_become_short() -> None:
    assert len(safe_name("x" * 500 + ".safetensors")) <= 135
