"""What a job tells of what went wrong: its error, the attempts it has lost, the parts of it that did not run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from core.texts.stored_json import known_fields


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job has failed."""

    #: Public, and never changes its meaning; as in `ComfylineError`.
    code: str = "failed"
    message: str = "The job failed."
    #: The node that raised it, where one did.
    node_id: str | None = None
    class_type: str | None = None
    traceback: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> JobError:
        """Read what `to_json` made, of this version or another one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return `{"code", "message", "node_id", "class_type", "traceback"}`."""
        # A node may say anything. What holds a NUL PostgreSQL takes as JSON, and then gives no part of it.
        return {name: text.replace("\0", "\ufffd") if text else text for name, text in asdict(self).items()}

    @property
    def place(self) -> str:
        """` (node 7, KSampler)`, to stand behind a message; empty where no node is to blame."""
        return f" (node {self.node_id}, {self.class_type})" if self.node_id else ""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """An attempt that was lost with its instance."""

    attempt: int | None = None
    code: str | None = None
    instance: str | None = None
    gpu: str | None = None
    at_ms: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> Loss:
        """Read what `to_json` made, of this version or another one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return `{"attempt", "code", "instance", "gpu", "at_ms"}`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class JobWarning:
    """A branch that a node blocked with a message, or several; the rest of the job ran."""

    message: str
    node_id: str | None = None
    class_type: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> JobWarning:
        """Read what `to_json` made, of this version or another one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return `{"message", "node_id", "class_type"}`."""
        return asdict(self)
