"""What each tool takes. No secrets: neither buckets nor webhooks, for what a model has read stands in its log."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from api.schema.batch_bodies import BatchJobsBody
from api.schema.blocks import Strict
from api.schema.bodies import PlacementBody
from api.schema.field_types import Graph, Label
from core.contracts.comfy_v2 import ShownStatus
from core.records.batch import MAX_JOBS

#: Clients give a tool a minute, mostly.
DEFAULT_WAIT_S, LONGEST_WAIT_S = 50.0, 600.0
MOST_LISTED = 50
SMALLEST_EDGE_PX, DEFAULT_EDGE_PX, LARGEST_EDGE_PX = 64, 512, 1024
MOST_PICTURES = 4


class NoArguments(Strict):
    """Of a tool that takes nothing."""


class SubmitArguments(Strict, PlacementBody):
    """What every tool that submits takes beside the work itself."""

    model_config = ConfigDict(extra="forbid")

    label: Label = None
    idempotency_key: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A word of your own for this very submission: called again with it and the same arguments, the "
        "tool answers with what it submitted the first time. Give one, so that a lost answer costs nothing.",
    )


class TemplateArguments(SubmitArguments):
    template: str = Field(description="Its name, as list_templates says.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="By the template's schema. A picture is the id of an uploaded file or of an output, or a URL.",
    )


class WorkflowArguments(SubmitArguments):
    graph_field: ClassVar[str | None] = "workflow"

    workflow: Graph


class BatchArguments(BatchJobsBody, SubmitArguments):
    max_running: int | None = Field(None, ge=1, le=MAX_JOBS, description="How many of its jobs may run at once.")


class UploadArguments(Strict):
    file_name: str = Field(description="With its ending, such as photo.png.")
    data_base64: str = Field(description="The bytes in base64. What has a URL is named by that in the job itself.")


class TemplatesArguments(Strict):
    name: str | None = Field(None, description="Only this one.")


class JobArguments(Strict):
    job_id: str


class BatchIdArguments(Strict):
    batch_id: str


class ListArguments(Strict):
    batch_id: str | None = Field(None, description="Only those of this batch, by their places.")
    status: list[Literal[get_args(ShownStatus)]] | None = Field(None, description="Only those in one of these.")  # type: ignore[valid-type]
    label: Label = None
    limit: int = Field(10, ge=1, le=MOST_LISTED)
    cursor: str | None = Field(None, description="The next_cursor of the page before.")


class WaitArguments(Strict):
    timeout_s: float = Field(
        DEFAULT_WAIT_S,
        ge=0,
        le=LONGEST_WAIT_S,
        description="How long to wait. Whatever has not ended by then goes on: call again.",
    )


class JobWaitArguments(JobArguments, WaitArguments):
    pass


class BatchWaitArguments(BatchIdArguments, WaitArguments):
    pass


class PictureArguments(JobArguments):
    output: int = Field(0, ge=0, description="Which output is shown first, from 0.")
    count: int = Field(1, ge=1, le=MOST_PICTURES, description="How many pictures at most.")
    edge_px: int = Field(
        DEFAULT_EDGE_PX,
        ge=SMALLEST_EDGE_PX,
        le=LARGEST_EDGE_PX,
        description="The longer edge of what is shown. The whole file is at its url.",
    )


class SheetArguments(BatchIdArguments):
    page: int = Field(1, ge=1, le=100_000)
    cell_px: int = Field(128, ge=64, le=256, description="The edge of each picture.")
