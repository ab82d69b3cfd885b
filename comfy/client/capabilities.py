"""What one running ComfyUI can do, by asking it: version numbers alone do not tell forks and development builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Version = tuple[int, int, int]

#: Older ones ignore the id of a prompt.
OLDEST: Version = (0, 3, 45)
#: `POST /interrupt` honours `prompt_id` from this version on; before, it stops whatever runs.
_INTERRUPT_BY_ID: Version = (0, 3, 57)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The differences between ComfyUI 0.3.45 and the newest that matter to us."""

    #: Parsed `comfyui_version`; None if it is absent or unreadable.
    version: Version | None = None
    version_text: str | None = None
    #: The whole `/features` answer, `{}` before 0.3.45.
    features: Mapping[str, Any] = field(default_factory=dict)
    #: `POST /interrupt {"prompt_id"}` stops only that prompt.
    interrupt_by_id: bool = False
    #: `GET /api/jobs/{id}` finds a prompt wherever it is (0.6.0 and newer).
    jobs_api: bool = False
    #: `POST /api/jobs/{id}/cancel` stops a pending or running prompt atomically (mid 2026 and newer).
    cancel_api: bool = False

    @property
    def max_upload_bytes(self) -> int | None:
        """The limit of any request body, `/prompt` included, in bytes; None if the server does not say."""
        limit = self.features.get("max_upload_size")
        # A server that was told its limit on the command line says a fraction.
        return int(limit) if isinstance(limit, (int, float)) and not isinstance(limit, bool) else None


def parse_version(text: object) -> Version | None:
    """`"0.3.57"`, `"v0.10"`, `"0.28.1-dev+abc"` -> three numbers; anything else -> None."""
    match = re.match(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?", text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def detect(
    *, version_text: object, features: Mapping[str, Any] | None, jobs_api: bool, cancel_api: bool
) -> Capabilities:
    """Combine the answers of `/system_stats`, `/features`, `/api/jobs?limit=1` and a cancel of an unknown id."""
    version = parse_version(version_text)
    return Capabilities(
        version=version,
        version_text=version_text if isinstance(version_text, str) else None,
        features=features or {},
        # A server with the jobs API is newer than 0.3.57, whatever it calls itself.
        interrupt_by_id=jobs_api or (version is not None and version >= _INTERRUPT_BY_ID),
        jobs_api=jobs_api,
        cancel_api=cancel_api,
    )
