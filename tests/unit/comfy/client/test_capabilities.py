"""What is concluded from the answers of servers of different age."""

from __future__ import annotations

import pytest

from comfy.client.capabilities import detect, parse_version

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104857600}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.3.45", (0, 3, 45)),
        ("v0.3.57", (0, 3, 57)),
        ("0.28", (0, 28, 0)),
        ("0.10.0-dev+3f2a", (0, 10, 0)),
        (" 1.2.3rc1", (1, 2, 3)),
        ("unknown", None),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_versions_are_read_tolerantly(text: object, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "jobs_api", "cancel_api", "by_id"),
    [
        ("0.3.45", False, False, False),
        ("0.3.56", False, False, False),
        ("0.3.57", False, False, True),
        ("0.3.64", False, False, True),
        ("0.10.0", True, False, True),
        ("0.28", True, True, True),
    ],
)
def test_interrupting_by_id_came_with_0_3_57(version: str, jobs_api: bool, cancel_api: bool, by_id: bool) -> None:
    capabilities = detect(version_text=version, features=FEATURES, jobs_api=jobs_api, cancel_api=cancel_api)
    assert capabilities.interrupt_by_id is by_id
    assert (capabilities.jobs_api, capabilities.cancel_api) == (jobs_api, cancel_api)


def test_a_fork_without_a_version_is_judged_by_its_routes() -> None:
    assert detect(version_text=None, features=None, jobs_api=True, cancel_api=False).interrupt_by_id
    assert not detect(version_text="fork", features=None, jobs_api=False, cancel_api=False).interrupt_by_id


def test_features_are_optional_and_typed() -> None:
    known = detect(version_text="0.3.64", features=FEATURES, jobs_api=False, cancel_api=False)
    assert known.max_upload_bytes == 104857600
    on_request = detect(
        version_text="0.38.1", features={"max_upload_size": 524288000.0}, jobs_api=True, cancel_api=True
    )
    assert on_request.max_upload_bytes == 524288000
    older = detect(version_text="0.3.40", features=None, jobs_api=False, cancel_api=False)
    assert older.max_upload_bytes is None
