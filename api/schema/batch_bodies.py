"""The request bodies of batches."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from api.schema.blocks import WEBHOOK_EXAMPLE, Strict, WebhookBody
from api.schema.bodies import GRAPH_EXAMPLE, JobBody
from api.schema.field_types import Graph, Metadata
from core.errors import InvalidRequest
from core.records.batch import BATCH_EVENTS, MAX_JOBS, PROGRESS_EVERY_S, PROGRESS_STEP
from core.records.job import CANCELED, EXPIRED, FAILED
from workflows.templates.parameters import shown

#: A day, and ten thousand jobs.
LONGEST_PAUSE_S = 24 * 3600.0


def _batch_events(value: Any) -> list[str] | None:
    if value is None:
        return None
    known = ", ".join(BATCH_EVENTS)
    if not isinstance(value, list) or not value:
        raise ValueError(f"a list of one or more of {known}")
    unknown = [name for name in value if name not in BATCH_EVENTS]
    if unknown:
        raise InvalidRequest(f"webhook.events: there is no event {shown(unknown[0])} of a batch; there are {known}.")
    return list(dict.fromkeys(value))


_VALUES = {
    "anyOf": [
        {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}},
        {"type": "string", "description": "A range, both ends included: 1..100, or 0..1..0.25 with a step."},
        {
            "type": "object",
            "properties": {"from": {"type": "number"}, "to": {"type": "number"}, "step": {"type": "number"}},
            "required": ["from", "to"],
            "additionalProperties": False,
        },
    ]
}
Over = Annotated[
    dict[str, Any] | None,
    WithJsonSchema(
        {
            "type": "object",
            "description": "What is varied, by the name of a template's parameter or by node.input, and its values: a "
            "list or a range.",
            "additionalProperties": _VALUES,
        }
    ),
]
BatchEvents = Annotated[
    Any,
    BeforeValidator(_batch_events),
    WithJsonSchema(
        {
            "description": "Default: batch.completed.",
            "anyOf": [{"type": "array", "items": {"enum": list(BATCH_EVENTS)}, "minItems": 1}, {"type": "null"}],
        }
    ),
]


class BatchWebhookBody(WebhookBody):
    """Where the events of a batch are to be told; its jobs tell none of their own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**WEBHOOK_EXAMPLE, "events": ["batch.completed"]}]})

    events: BatchEvents = None
    progress_every_s: float | None = Field(
        None, ge=1, le=LONGEST_PAUSE_S, description=f"batch.progress no more often. Default: {PROGRESS_EVERY_S:g}."
    )
    progress_step: float | None = Field(
        None, ge=0, le=1, description=f"And when so much more has ended. Default: {PROGRESS_STEP:g}."
    )


class BatchItemBody(Strict):
    """One job of a batch whose jobs are named one by one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"parameters": {"prompt": "a lighthouse"}}]})

    workflow: Graph = Field(None, description="Default: that of the batch.")
    template: str | None = Field(None, description="Default: that of the batch.")
    parameters: dict[str, Any] | None = Field(None, description="Beside those of the batch, and before them.")
    metadata: Metadata = None


class BatchJobsBody(Strict):
    """The jobs of a batch: what they are made of, and what is varied; or each by itself."""

    workflow: Graph = Field(None, description="What is varied is named by node.input.")
    template: str | None = Field(None, description="In place of workflow: the name of a template.")
    parameters: dict[str, Any] | None = Field(None, description="Of the template, those that are not varied.")
    over: Over = None
    mode: Literal["cross", "zip"] = Field("cross", description="Each value with each, or side by side.")
    jobs: list[BatchItemBody] | None = Field(
        None, max_length=MAX_JOBS, description="In place of over: the jobs one by one."
    )


class MoreJobsBody(BatchJobsBody):
    """Further jobs of a batch. Without workflow and template: of what the batch is made of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"over": {"1.color": "1..3"}}]})


class BatchBody(BatchJobsBody, JobBody):
    """A batch of jobs."""

    graph_field: ClassVar[str | None] = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"workflow": GRAPH_EXAMPLE, "over": {"1.color": "1..100"}, "label": "colours"},
                {
                    "template": "text2image",
                    "parameters": {"steps": 12},
                    "over": {"seed": {"from": 1, "to": 4}, "prompt": ["a lighthouse", "a harbour"]},
                    "max_running": 4,
                },
            ]
        },
    )

    max_running: int | None = Field(
        None, ge=1, le=MAX_JOBS, description="How many of its jobs may run at once. Default: as many as there are GPUs."
    )
    webhook: BatchWebhookBody | None = Field(None, description="Where the events of the batch are to be told.")


class RetryBody(Strict):
    """Which jobs of a batch are to be made again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"statuses": ["failed"]}]})

    statuses: list[Literal["failed", "expired", "canceled"]] | None = Field(
        None, min_length=1, description=f"Default: {FAILED} and {EXPIRED}, not {CANCELED}."
    )
