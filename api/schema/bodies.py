"""The request bodies, one model each: what a field may be, what it means, and an example that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from api.http.forms import LONGEST_LIFE_S, SHORTEST_LIFE_S
from api.schema.blocks import WEBHOOK_EXAMPLE, Block, Named, RequiresBody, S3Body, WebhookBody
from api.schema.field_types import (
    WEEK_S,
    ContentType,
    ExtraData,
    Graph,
    GraphObject,
    Label,
    Metadata,
    RequestId,
    Reserved,
    StartWithinS,
    TimeoutS,
    WebhookHeaders,
    WebhookSecret,
)
from api.schema.validation import Body
from core.errors import InvalidRequest

#: Seconds on an RTX 4090 when the client does not say.
DEFAULT_EXPECTED_S = 46.0
MAX_PRIORITY = 1_000_000
SHORTEST_RETENTION_S, LONGEST_RETENTION_S = 60, 30 * 24 * 3600
MAX_SEED = 2**64 - 1

# Clients compare these three texts.
BOTH_MODES = "Cannot provide both workflow_json and modifier - they are mutually exclusive"
NEITHER_MODE = "Must provide either workflow_json OR modifier"
LONE_MODIFICATIONS = "modifications can only be provided when modifier is specified"

GRAPH_EXAMPLE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 3368601}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "image", "images": ["1", 0]}},
}


#: How older servers of these contracts, and others, name what belongs into a block.
_FLAT_NAMES = {
    **{
        f"{vendor}{name.replace('_', '')}": f"s3.{name}"
        for vendor in ("aws", "s3")
        for name in ("access_key_id", "secret_access_key", "session_token", "endpoint_url", "bucket_name", "region")
    },
    **dict.fromkeys(("bucket", "bucketname", "s3bucket", "awsbucket"), "s3.bucket_name"),
    **dict.fromkeys(("s3config", "s3settings", "s3upload", "aws", "awss3", "outputs3"), "s3"),
    **dict.fromkeys(("webhookurl", "callback", "callbackurl"), "webhook.url"),
    **{f"webhook{name.replace('_', '')}": f"webhook.{name}" for name in WebhookBody.model_fields if name != "url"},
    **dict.fromkeys(("webhookv2", "webhookconfig"), "webhook"),
    "convert": "convert_output",
    **dict.fromkeys(("requirements", "require", "constraints"), "requires"),
    **dict.fromkeys(("pool", "gpupool"), "requires.pool"),
    **dict.fromkeys(("vramgb", "minvram", "minvramgb"), "requires.vram_gb"),
    **dict.fromkeys(("startwithin", "startwithinseconds"), "start_within_s"),
}


class ReplayBody(Block):
    """The secret and the headers of a webhook once more, or other ones: they are deleted after their last use."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"secret": "shared-secret"}]})

    secret: WebhookSecret = Field(None, repr=False)
    headers: WebhookHeaders = Field(None, repr=False)


class ConvertOutput(Block):
    """A format that images are to be converted to; other files stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"format": "webp", "quality": 80}]})
    other_names: ClassVar[Mapping[str, str]] = {"type": "format", "imageformat": "format"}

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


class OutputOptionsBody(Named):
    """What is to become of a job's outputs."""

    other_names: ClassVar[Mapping[str, str]] = _FLAT_NAMES

    s3: S3Body | None = Field(None, description="A bucket to put the outputs into as well.")
    convert_output: ConvertOutput | None = None
    strip_metadata: bool | None = Field(
        None, description="Remove the workflow and the prompt that ComfyUI writes into its files."
    )
    retention: int | None = Field(
        None,
        ge=SHORTEST_RETENTION_S,
        le=LONGEST_RETENTION_S,
        description="Seconds from its end for which the job and its files are kept. Default: COMFYLINE_RETENTION_S.",
    )


class PlacementBody(Body):
    """When, and on which GPU, a job is to begin: in the body of every submission, whatever its contract."""

    priority: int | None = Field(
        None,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="Larger runs sooner. Default: 0. The highest that a key may use: COMFYLINE_MAX_PRIORITY.",
    )
    requires: RequiresBody | None = Field(
        None, description="What the GPU must be. What a template requires counts where this says nothing."
    )
    start_within_s: StartWithinS = None


class JobBody(OutputOptionsBody, PlacementBody):
    """What every submission that is answered by a Job may say beside its workflow."""

    label: Label = None
    timeout: TimeoutS = None
    metadata: Metadata = None
    extra_data: ExtraData = Field(None, repr=False)
    webhook: WebhookBody | None = Field(None, description="An extension: where its events are to be told.")


#: A dry run that was asked for within a body would be a job.
TRIED_NAMES = {**_FLAT_NAMES, "dryrun": "?dry_run=true"}


class SubmitBody(JobBody):
    """A job of Comfy API v2."""

    graph_field: ClassVar[str | None] = "workflow"
    other_names: ClassVar[Mapping[str, str]] = TRIED_NAMES

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

    other_names: ClassVar[Mapping[str, str]] = TRIED_NAMES

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"parameters": {"prompt": "a lighthouse in a storm", "steps": 12}}]},
    )

    parameters: dict[str, Any] = Field(description="As the schema of GET /workflows/{name} says.")


class ModelInputBody(Body):
    """The parameters of a model by their names, as the model's own document says."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"prompt": "a lighthouse in a storm"}]})


class ConversionBody(Body):
    """A document of the editor that is to become a graph."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"workflow": GRAPH_EXAMPLE}]})

    workflow: GraphObject


class GenerateInput(OutputOptionsBody, PlacementBody):
    """The work itself: a graph, or a modifier and its modifications."""

    request_id: RequestId = Field(
        None, description="Your id for the job: 1 to 128 of A-Z a-z 0-9 . _ -, used by no other. Default: ours."
    )
    workflow_json: Graph = None
    modifier: str | None = Field(None, examples=["Text2Image", "Image2Image", "RawWorkflow"])
    modifications: dict[str, Any] | None = Field(None, description="The values that the modifier takes.")
    webhook: WebhookBody | None = Field(None, description="Default: the server's WEBHOOK_URL.")
    label: Label = None
    timeout: TimeoutS = None
    extra_data: ExtraData = Field(None, repr=False)
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


class GenerateBody(Named):
    """A request of the `/generate` family."""

    graph_field: ClassVar[str | None] = "input.workflow_json"

    # What stands beside the input instead of in it would be lost.
    other_names: ClassVar[Mapping[str, str]] = {
        **{name: f"input.{ours}" for name, ours in GenerateInput.other_names.items()},
        **{
            name.replace("_", ""): f"input.{name}"
            for name in (
                *("request_id", "label", "s3", "webhook", "convert_output", "strip_metadata", "retention"),
                *PlacementBody.model_fields,
            )
        },
    }

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
                        "webhook": WEBHOOK_EXAMPLE,
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


class DirectUploadBody(Body):
    """A file that is about to be sent straight into the bucket."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"size_bytes": 5_000_000}]})

    size_bytes: int = Field(ge=1, description="Exactly as many as will be sent.")


class FinishUploadBody(Body):
    """A file that has been sent into the bucket."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"hash": f"blake3:{'0' * 64}", "file_path": "photo.png"}]}
    )

    hash: str = Field(description="blake3:<64 hex digits> of what was sent.")
    file_path: str = Field(description="Its path below the input folder, such as rooms/photo.png.")
    content_type: ContentType = Field("", description="Counts only where the bytes tell nothing.")
    expires_in: int | None = Field(
        None, ge=SHORTEST_LIFE_S, le=LONGEST_LIFE_S, description="Seconds for which it is kept."
    )


class CustomWorkflowBody(OutputOptionsBody, PlacementBody):
    """A graph of the client's own, with values for its placeholders."""

    graph_field: ClassVar[str | None] = "workflow"

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"custom_fields": {"steps": 20, "width": 512, "height": 512}, "workflow": GRAPH_EXAMPLE}]
        }
    )

    workflow: GraphObject
    custom_fields: dict[str, Any] | None = Field(None, description="Those without a placeholder are ignored.")
    webhook: WebhookBody | None = Field(None, description="An extension. Default: the server's WEBHOOK_URL.")


class PromptBody(PlacementBody):
    """Values for the default workflow. Any further name fills the placeholder of that name, and so do those of the
    placement, if the workflow has one of that name."""

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
