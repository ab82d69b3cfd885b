"""Job requests from bodies: what a template was filled with, what is to become of the outputs, and whom to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.http.caller import highest_priority
from api.schema.blocks import WebhookBody
from api.schema.bodies import ConvertOutput, JobBody, OutputOptionsBody, PlacementBody
from api.service.webhook_target import parse_webhook
from core.buckets.block import S3Block, parse_s3
from core.errors import InvalidRequest
from core.records.job import ContractName
from core.records.job_request import JobRequest
from core.records.output_options import ConvertOptions, OutputOptions
from core.records.requirements import Requirements
from core.settings import Settings
from workflows.templates.fill import Filled

#: Characters of a data URI that are kept among a job's parameters.
MAX_RECORDED_URI = 64


def filled_request(filled: Filled, *, contract: ContractName, template: str | None) -> JobRequest:
    """Return the request for a filled template; without a name it is a graph of the client's own, with placeholders."""
    parameters = recorded_parameters(filled.values)
    return JobRequest(
        contract=contract,
        graph=filled.graph,
        files=filled.files,
        template=template,
        parameters=parameters if template else parameters or None,
        requires=filled.requires,
        drawn=filled.drawn,
    )


def with_job_fields(request: JobRequest, body: JobBody, settings: Settings, base_url: str) -> JobRequest:
    """Return the request with all that a submission which is answered by a Job may say beside its workflow.

    Raises:
      InvalidRequest: a block is incomplete, or holds what cannot be used.
    """
    # One copy in all: this is on the path of every submission, and a request has many fields.
    placement = _placement(request.requires, body, settings)
    extra = _extra_data(request.secrets, body.extra_data)
    outputs = _output_fields(extra["secrets"], body, body.webhook, settings, base_url, has_defaults=False)
    said = {"label": body.label, "timeout_s": body.timeout, "metadata": body.metadata}
    return replace(request, **said, **placement, **(extra | outputs))


def with_placement(request: JobRequest, body: PlacementBody, settings: Settings, *, within: str = "") -> JobRequest:
    """Return the request with its place in the queue, and what it requires beside what its template does.

    Parameters:
      within: where its fields stand in the request's body, `input.`, for what an error calls them.
    Raises:
      InvalidRequest: its priority is above what its caller may use.
    """
    return replace(request, **_placement(request.requires, body, settings, within))


def _placement(
    requires: Requirements | None, body: PlacementBody, settings: Settings, within: str = ""
) -> dict[str, Any]:
    """The fields of a request that `with_placement` sets. Parameters: requires - what its template does."""
    priority, highest = body.priority or 0, highest_priority(settings)
    if body.priority is not None and priority > highest:
        raise InvalidRequest(
            f"{within}priority must be at most {highest}, not {priority}: {_whose_limit(settings, highest)}."
        )
    if body.requires is not None:
        requires = Requirements(**body.requires.model_dump()).over(requires)
    return {
        # Who says nothing is not above the limit either.
        "priority": min(priority, highest),
        "requires": requires if requires is not None and requires.to_json() else None,
        "start_within_s": body.start_within_s,
    }


def _whose_limit(settings: Settings, highest: int) -> str:
    return (
        "this key may ask for no more"
        if highest < settings.max_priority
        else "COMFYLINE_MAX_PRIORITY is the limit here"
    )


def with_extra_data(request: JobRequest, extra_data: Mapping[str, Any] | None) -> JobRequest:
    """Return the request with what ComfyUI is given beside the graph: all of it but `extra_pnginfo` is secret."""
    fields = _extra_data(request.secrets, extra_data)
    # A document of the editor that was converted is there already.
    pnginfo = {**(request.extra_pnginfo or {}), **(fields["extra_pnginfo"] or {})}
    return replace(request, **{**fields, "extra_pnginfo": pnginfo or None})


def _extra_data(secrets: Mapping[str, Any], extra_data: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a request that `with_extra_data` sets. Parameters: secrets - those it has already."""
    added = dict(extra_data or {})
    extra_pnginfo = added.pop("extra_pnginfo", None) or None
    return {"extra_pnginfo": extra_pnginfo, "secrets": {**secrets, **added}}


def with_output_fields(
    request: JobRequest,
    body: OutputOptionsBody,
    webhook: WebhookBody | None,
    settings: Settings,
    base_url: str,
    *,
    has_defaults: bool,
) -> JobRequest:
    """Return the request with what is to become of its outputs, and with its webhook.

    Parameters:
      base_url: scheme and host for links in the webhook's body.
      has_defaults: where the request names no bucket or no webhook, the operator's count, if there are any.
    Raises:
      InvalidRequest: a block is incomplete, or holds what cannot be used.
    """
    fields = _output_fields(request.secrets, body, webhook, settings, base_url, has_defaults=has_defaults)
    return replace(request, **fields)


def _output_fields(
    secrets: Mapping[str, Any],
    body: OutputOptionsBody,
    webhook: WebhookBody | None,
    settings: Settings,
    base_url: str,
    *,
    has_defaults: bool,
) -> dict[str, Any]:
    """The fields of a request that `with_output_fields` sets. Parameters: secrets - those it has already."""
    bucket = _bucket(body, settings, has_default=has_defaults)
    hook = parse_webhook(webhook, settings, base_url, has_default=has_defaults)
    options = OutputOptions(
        bucket=bucket.target if bucket else None,
        convert=_convert(body.convert_output),
        strip_metadata=bool(body.strip_metadata),
    )
    sealed = {"s3": bucket.credentials.to_json()} if bucket and bucket.credentials else {}
    return {
        "output_options": options,
        "webhook": hook.target if hook else None,
        "retention_s": body.retention,
        "secrets": {**secrets, **sealed, **(hook.secrets if hook else {})},
    }


def _bucket(body: OutputOptionsBody, settings: Settings, *, has_default: bool) -> S3Block | None:
    block = None if body.s3 is None or body.s3.is_blank else body.s3.model_dump(exclude_none=True)
    return parse_s3(block, settings) if block or has_default else None


def _convert(wanted: ConvertOutput | None) -> ConvertOptions | None:
    if wanted is None:
        return None
    return ConvertOptions(format=wanted.format, quality=wanted.quality, lossless=wanted.lossless)


def recorded_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as they are kept and shown: without the megabytes of a picture that came among them."""
    return {
        name: f"{value[:MAX_RECORDED_URI]}..."
        if isinstance(value, str) and value.startswith("data:") and len(value) > MAX_RECORDED_URI
        else value
        for name, value in parameters.items()
    }
