"""The root of the tree of errors, and what several of its branches tell beside their message."""

from __future__ import annotations

from typing import Any, ClassVar

NodeErrors = dict[str, Any]
"""`{node_id: {"errors": [{"type", "message", "details", "extra_info"}], "dependent_outputs": [...], "class_type"}}`."""


class ComfylineError(Exception):
    """Base of everything raised on purpose. `code` is public and never changes its meaning."""

    code: ClassVar[str] = "internal"

    @property
    def message(self) -> str:
        """What happened and what to do, safe to show to a client."""
        return str(self.args[0]) if self.args else type(self).__name__

    @property
    def details(self) -> dict[str, Any] | None:
        """Machine-readable facts beside the message, safe to show to a client."""
        return None

    def __str__(self) -> str:
        return self.message


class CarriesNodeErrors(Exception):
    """What ComfyUI, or our check in its place, says of a graph's nodes."""

    def __init__(self, message: str, node_errors: NodeErrors | None = None) -> None:
        super().__init__(message, node_errors)
        self.node_errors: NodeErrors = node_errors or {}

    @property
    def details(self) -> dict[str, Any] | None:
        return {"node_errors": self.node_errors}


class NamesJob(Exception):
    """The job that has what the request asks for anew."""

    def __init__(self, message: str, job_id: str | None = None) -> None:
        super().__init__(message, job_id)
        self.job_id = job_id

    @property
    def details(self) -> dict[str, Any] | None:
        return None if self.job_id is None else {"job_id": self.job_id}


class NamesNode(Exception):
    """The node that ran, where one is known."""

    def __init__(self, message: str, node_id: str | None = None, node_class: str | None = None) -> None:
        super().__init__(message, node_id, node_class)
        self.node_id = node_id
        self.node_class = node_class
