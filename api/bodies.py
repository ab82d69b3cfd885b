"""The request bodies, one model each: what a field may be, what it means, and an example that works."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from api.field_types import (
    WEEK_S,
    ExtraData,
    ExtraParams,
    Graph,
    GraphObject,
    Metadata,
    PutUrls,
    RequestId,
    Reserved,
    TimeoutS,
    WebhookEvents,
    WebhookSecret,
)
from api.forms import LONGEST_LIFE_S, SHORTEST_LIFE_S
from api.validation import Body
from core.errors import InvalidRequest
from core.object_keys import DEFAULT_TEMPLATE

#: Seconds on an RTX 4090 when the client does not say.
DEFAULT_EXPECTED_S = 46.0
MAX_PRIORITY = 1_000_000
MAX_URL_CHARS = 2048
MAX_TEMPLATE_CHARS = 512
SHORTEST_RETENTION_S, LONGEST_RETENTION_S = 60, 30 * 24 * 3600
MAX_WEBHOOK_TIMEOUT_S = 300.0
MAX_SEED = 2**64 - 1

# Clients compare these three texts.
BOTH_MODES = "Cannot provide both workflow_json and modifier - they are mutually exclusive"
NEITHER_MODE = "Must provide either workflow_json OR modifier"
LONE_MODIFICATIONS = "modifications can only be provided when modifier is specified"

GRAPH_EXAMPLE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 3368601}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "image", "images": ["1", 0]}},
}
_WEBHOOK_EXAMPLE: dict[str, Any] = {
    "url": "https://example.com/hook",
    "events": ["job.completed", "job.failed"],
    "extra_params": {"order": 4711},
    "timeout": 30,
}
_S3_EXAMPLE: dict[str, Any] = {
    "access_key_id": "your-key",
    "secret_access_key": "your-secret",
    "endpoint_url": "https://s3.example.com",
    "bucket_name": "your-bucket",
    "region": "us-east-1",
    "prefix": "renders",
}


class S3Body(Body):
    """A bucket for the outputs. Without keys and bucket: the server's own bucket, under this prefix."""

    model_config = ConfigDict(json_schema_extra={"examples": [_S3_EXAMPLE]})

    access_key_id: str | None = Field(
        None, repr=False, description="With the secret and the bucket: all three, or none."
    )
    secret_access_key: str | None = Field(None, repr=False, description="Sealed; deleted with the job's end.")
    session_token: str | None = Field(None, repr=False, description="Of temporary keys.")
    bucket_name: str | None = None
    endpoint_url: str | None = Field(None, max_length=MAX_URL_CHARS, description="Of servers that are not Amazon's.")
    region: str | None = None
    prefix: str | None = Field(None, description="Folder in the bucket; files lie below <prefix>/<job id>/.")
    key_template: str | None = Field(
        None,
        max_length=MAX_TEMPLATE_CHARS,
        description="How keys are made, of {prefix}, {job_id}, {request_id}, {filename}, {node_id}, {ordinal}, {date}. "
        f"Default: {DEFAULT_TEMPLATE}",
    )
    public_url: str | None = Field(
        None, max_length=MAX_URL_CHARS, description="Where anybody finds the objects: the answer's URLs begin with it."
    )
    addressing: Literal["path", "virtual"] | None = Field(
        None, description="How URLs name the bucket. Default: path at an endpoint_url, else virtual."
    )
    put_urls: PutUrls = Field(None, repr=False)
    connect_timeout: float | None = Field(None, gt=0, le=300, description="Seconds. Default: 60.")
    connect_attempts: int | None = Field(None, ge=1, le=10, description="Tries at one request. Default: 3.")

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        """Sample clients send every field of a block, blank, when they mean none."""
        if not isinstance(value, dict):
            return value
        return {
            name: inner
            for name, inner in value.items()
            if inner not in (None, [], {}) and (not isinstance(inner, str) or inner.strip())
        }

    @property
    def is_blank(self) -> bool:
        """Whether no bucket is meant; the time limits alone mean none."""
        return not self.model_fields_set - {"connect_timeout", "connect_attempts"}


class WebhookBody(Body):
    """Where the events of a job are to be told. A blank url means no webhook of one's own."""

    model_config = ConfigDict(json_schema_extra={"examples": [_WEBHOOK_EXAMPLE]})

    url: str = Field(max_length=MAX_URL_CHARS, description="http or https, without a user name.")
    events: WebhookEvents = None
    extra_params: ExtraParams = Field(None, description="Returned in the events as extra; at most 8 KiB as JSON.")
    timeout: float | None = Field(
        None, gt=0, le=MAX_WEBHOOK_TIMEOUT_S, description="Seconds for the receiver's answer. Default: WEBHOOK_TIMEOUT."
    )
    secret: WebhookSecret = Field(None, repr=False)


class ReplayBody(Body):
    """The secret of a webhook once more, or another one: it is deleted after its last use."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"secret": "shared-secret"}]})

    secret: WebhookSecret = None


class ConvertOutput(Body):
    """A format that images are to be converted to; other files stay as they are."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"format": "webp", "quality": 80}]})

    format: Literal["webp", "jpeg", "png"]
    quality: int | None = Field(None, ge=1, le=100, description="Of webp and jpeg. Default: 80 for webp, 90 for jpeg.")
    lossless: bool | None = Field(None, description="Of webp.")

    @model_validator(mode="after")
    def _fits_the_format(self) -> ConvertOutput:
        if self.quality is not None and self.format == "png":
            raise InvalidRequest("convert_output.quality is for webp and jpeg; png has none.")
        if self.lossless is not None and self.format != "webp":
            raise InvalidRequest("convert_output.lossless is for webp only.")
        return self


class DeliveryBody(Body):
    """What is to become of a job's outputs."""

    s3: S3Body | None = Field(None, description="A bucket to put the outputs into as well.")
    convert_output: ConvertOutput | None = None
    strip_metadata: bool | None = Field(
        None, description="Remove the workflow and the prompt that ComfyUI writes into its files."
    )
    retention: int | None = Field(
        None,
        ge=SHORTEST_RETENTION_S,
        le=LONGEST_RETENTION_S,
        description="Seconds from its end for which the job and its files are kept. Default: FLEET_RETENTION_S.",
    )


class JobBody(DeliveryBody):
    """What every submission that is answered by a Job may say beside its workflow."""

    priority: int | None = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="Larger runs sooner. Default: 0.")
    timeout: TimeoutS = None
    metadata: Metadata = None
    extra_data: ExtraData = Field(None, repr=False)
    webhook: WebhookBody | None = Field(None, description="An extension: where its events are to be told.")


class SubmitBody(JobBody):
    """A job of Comfy API v2."""

    model_config = ConfigDict(
        json_schema_extra={
            # A job without a workflow is refused by the check of the workflow, in its words.
            "required": ["workflow"],
            "examples": [{"workflow": GRAPH_EXAMPLE, "priority": 5, "metadata": {"client": "acme"}}],
        }
    )

    webhook_url: Reserved = Field(None, description="Reserved by the contract; see webhook.")
    inputs: Reserved = Field(None, description="Reserved by the contract.")
    workflow: Graph = None


class TemplateBody(JobBody):
    """A job from a template."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"parameters": {"prompt": "a lighthouse in a storm", "steps": 12}}]},
    )

    parameters: dict[str, Any] = Field(description="As the schema of GET /workflows/{name} says.")


class GenerateInput(DeliveryBody):
    """The work itself: a graph, or a modifier and its modifications."""

    request_id: RequestId = Field(
        None, description="Your id for the job: 1 to 128 of A-Z a-z 0-9 . _ -, used by no other. Default: ours."
    )
    workflow_json: Graph = None
    modifier: str | None = Field(None, examples=["Text2Image", "Image2Image", "RawWorkflow"])
    modifications: dict[str, Any] | None = Field(None, description="The values that the modifier takes.")
    webhook: WebhookBody | None = Field(None, description="Default: the server's WEBHOOK_URL.")
    timeout: TimeoutS = None
    return_outputs_as_base64: bool | None = Field(None, description="Files in the answer itself, 32 MiB together.")

    @model_validator(mode="after")
    def _one_mode(self) -> GenerateInput:
        if self.workflow_json and self.modifier:
            raise InvalidRequest(BOTH_MODES)
        if not self.workflow_json and not self.modifier:
            raise InvalidRequest(NEITHER_MODE)
        if self.modifications and not self.modifier:
            raise InvalidRequest(LONE_MODIFICATIONS)
        return self


class GenerateBody(Body):
    """A request of the `/generate` family."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "input": {
                        "modifier": "Text2Image",
                        "modifications": {"prompt": "a cat on a windowsill", "width": 512, "height": 512, "seed": 42},
                    },
                    "expected_time": 25.0,
                },
                {
                    "input": {
                        "request_id": "order-4711",
                        "workflow_json": GRAPH_EXAMPLE,
                        "webhook": _WEBHOOK_EXAMPLE,
                        "convert_output": {"format": "webp", "quality": 80},
                    },
                },
            ]
        }
    )

    input: GenerateInput
    expected_time: float = Field(DEFAULT_EXPECTED_S, ge=0, le=WEEK_S, description="Seconds you expect on an RTX 4090.")


class FromHashBody(Body):
    """An asset from bytes that are here already."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"hash": f"blake3:{'0' * 64}", "file_path": "photo.png"}]}
    )

    hash: str = Field(description="blake3:<64 hex digits>")
    file_path: str | None = Field(None, description="Its path below the input folder. Default: that of the known file.")
    expires_in: int | None = Field(
        None, ge=SHORTEST_LIFE_S, le=LONGEST_LIFE_S, description="Seconds for which it is kept."
    )


class CustomWorkflowBody(Body):
    """A graph of the client's own, with values for its placeholders."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"custom_fields": {"steps": 20, "width": 512, "height": 512}, "workflow": GRAPH_EXAMPLE}]
        }
    )

    workflow: GraphObject
    custom_fields: dict[str, Any] | None = Field(None, description="Those without a placeholder are ignored.")


class PromptBody(Body):
    """Values for the default workflow. Any further name fills the placeholder of that name."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"prompt": "a lighthouse in a storm", "width": 512, "height": 512, "steps": 20, "seed": 42}]
        },
    )

    prompt: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    steps: int = Field(ge=1)
    seed: int = Field(ge=0, le=MAX_SEED)
