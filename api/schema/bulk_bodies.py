"""The bodies of requests about jobs that are there: running one once more, and many at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, model_validator

from api.schema import fields
from api.schema.blocks import Strict
from api.schema.bodies import JobBody
from api.schema.field_types import Label
from core.contracts.comfy_v2 import SHOWN
from core.errors import InvalidRequest
from core.records.job import Status


class RerunBody(JobBody):
    """A job once more; what is said here takes the place of what the job had."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"same_seed": True, "label": "again"}]})

    parameters: dict[str, Any] | None = Field(None, description="Of a template: those that are to be others.")
    inputs: dict[str, Any] | None = Field(
        None, description="Inputs of nodes that are to be others, by their places: node.input, such as 3.steps."
    )
    same_seed: bool = Field(False, description="Keep the seeds that were drawn for it, too.")


class BulkBody(Strict):
    """Which jobs, and the word that they were counted: without it they are counted, and nothing else happens."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"label": "tuesday", "created_before": "2026-01-31T12:00:00Z"}]},
    )

    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("statuses", "state", "states"), "status"),
        **dict.fromkeys(("workflow", "workflowtemplate"), "template"),
        **dict.fromkeys(("batchid", "batches"), "batch"),
        **dict.fromkeys(("after", "from", "since"), "created_after"),
        **dict.fromkeys(("before", "until", "olderthan"), "created_before"),
    }

    status: list[str] | None = Field(None, description="Only jobs with one of these.")
    label: Label = None
    template: str | None = Field(None, description="Only jobs made from this workflow template.")
    batch: str | None = Field(None, description="Only jobs of this batch.")
    tenant: str | None = Field(None, description="For operators: jobs of this one; * are those of all. Default: yours.")
    created_after: str | None = Field(None, description="Only jobs submitted at this time or later.")
    created_before: str | None = Field(None, description="Only jobs submitted before this time.")
    confirm: str | None = Field(None, max_length=200, description="What the count of these jobs was answered with.")

    @model_validator(mode="after")
    def _names_some(self) -> BulkBody:
        if not any((self.status, self.label, self.template, self.batch, self.created_after, self.created_before)):
            raise InvalidRequest(
                "Say which jobs: one or more of status, label, template, batch, created_after and created_before."
            )
        for name in ("template", "batch", "tenant"):
            value = getattr(self, name)
            if value is not None and not fields.is_plain(value):
                raise InvalidRequest(f"{name} must be 1 to 255 characters, and none that controls text.")
        return self

    def statuses(self, allowed: tuple[Status, ...], *, does: str) -> tuple[Status, ...]:
        """Return the ledger's statuses that are meant; all that are allowed where the body names none.

        Parameters: does - what becomes of such jobs, for the message.
        Raises: InvalidRequest - another one is named.
        """
        words = {SHOWN[status] for status in allowed}
        for word in self.status or ():
            if word not in words:
                raise InvalidRequest(
                    f"status: {word[:40]!a} is none of {', '.join(sorted(words))}, and only such jobs can be {does}."
                )
        return tuple(status for status in allowed if self.status is None or SHOWN[status] in self.status)
