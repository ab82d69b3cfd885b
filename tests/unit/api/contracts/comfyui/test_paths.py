"""Every route answers at each of its places."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from api.contracts.comfyui.paths import ComfyuiPaths


def arrived(path: str, port: str) -> str:
    seen: list[str] = []

    def app(environ: dict[str, Any], _start: Any) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return []

    ComfyuiPaths(app, 8188)({"PATH_INFO": path, "SERVER_PORT": port}, lambda *_: lambda _: None)
    return seen[0]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/prompt", "/comfyui/prompt"),
        ("/api/prompt", "/comfyui/prompt"),
        ("/api/jobs", "/comfyui/api/jobs"),
        ("/api/jobs/x/cancel", "/comfyui/api/jobs/x/cancel"),
        ("/api/jobsx", "/comfyui/jobsx"),
        ("/api", "/comfyui/api"),
        ("/", "/comfyui/"),
        # What else the API serves is not on this port.
        ("/api/v2/jobs", "/comfyui/v2/jobs"),
        ("/metrics", "/comfyui/metrics"),
    ],
)
def test_on_its_own_port(path: str, route: str) -> None:
    assert arrived(path, "8188") == route


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/comfyui/api/prompt", "/comfyui/prompt"),
        ("/comfyui/prompt", "/comfyui/prompt"),
        ("/comfyui/api/jobs", "/comfyui/api/jobs"),
        ("/api/v2/jobs", "/api/v2/jobs"),
        ("/prompt", "/prompt"),
        ("/comfyuiapi/prompt", "/comfyuiapi/prompt"),
    ],
)
def test_on_the_apis_port(path: str, route: str) -> None:
    assert arrived(path, "8000") == route
