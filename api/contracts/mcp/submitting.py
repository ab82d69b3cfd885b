"""Tools that bring work: a job from a template or a graph, a batch, and files for them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from dataclasses import replace
from typing import Any

from api.contracts.mcp.arguments import (
    BatchArguments,
    SubmitArguments,
    TemplateArguments,
    TemplatesArguments,
    UploadArguments,
    WorkflowArguments,
)
from api.contracts.mcp.tool import Tool, ToolResult
from api.contracts.mcp.tool_views import (
    ToolBatchView,
    ToolFileView,
    ToolJobView,
    ToolTemplatesView,
    batch_view,
    file_view,
    job_view,
    template_view,
)
from api.http.caller import base_url, caller, links_for
from api.http.forms import input_path
from api.http.json_body import body_digest
from api.schema.batch_bodies import BatchBody
from api.schema.validation import lacks_graph, read
from api.service.batches.service import BatchService
from api.service.input_files import Intake
from api.service.job_requests import filled_request, with_placement
from api.service.jobs import JobService
from core.contracts.registry import CONTRACT_V2
from core.errors import InvalidRequest, InvalidWorkflow, NotFound
from core.ledger import Ledger
from core.records.job import Job
from core.records.job_request import JobRequest
from core.settings import Settings
from workflows.graphs.misplaced import misplaced_graph
from workflows.templates.library import Library
from workflows.templates.modifiers import draw_between
from workflows.templates.template import Template

_WAIT = "It goes on by itself: wait_for_job says when it has ended, show_outputs what it made."
_WAIT_FOR_BATCH = "Its jobs go on by themselves: wait_for_batch says when all have ended."


class SubmittingTools:
    """The tools of one process that submit, through the services that all contracts share."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        service: JobService,
        batches: BatchService,
        library: Library,
        intake: Intake,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._service = service
        self._batches = batches
        self._library = library
        self._intake = intake

    def tools(self) -> list[Tool[Any]]:
        """Return them."""
        return [
            Tool(
                name="list_templates",
                title="Workflow templates",
                description="The workflow templates there are, each with the JSON Schema of its parameters. "
                "Look here first.",
                scope="read",
                arguments=TemplatesArguments,
                view=ToolTemplatesView,
                run=self._list_templates,
                only_reads=True,
            ),
            Tool(
                name="submit_template",
                title="Submit a job from a template",
                description=f"Make one job from a template and its parameters; answers at once. {_WAIT}",
                scope="submit",
                arguments=TemplateArguments,
                view=ToolJobView,
                run=self._submit_template,
            ),
            Tool(
                name="submit_workflow",
                title="Submit a ComfyUI graph",
                description="Make one job from a ComfyUI graph of your own, in API format or as the editor saves it; "
                f"answers at once. {_WAIT}",
                scope="submit",
                arguments=WorkflowArguments,
                view=ToolJobView,
                run=self._submit_workflow,
            ),
            Tool(
                name="submit_batch",
                title="Submit many jobs at once",
                description="Make many jobs from one template or graph and what is varied, such as "
                '{"template": "text2image", "parameters": {"prompt": "a harbour"}, "over": {"seed": "1..8"}}; all or '
                f"none. {_WAIT_FOR_BATCH}",
                scope="submit",
                arguments=BatchArguments,
                view=ToolBatchView,
                run=self._submit_batch,
            ),
            Tool(
                name="upload_file",
                title="Upload an input",
                description="Keep a small file as an input for later jobs. For what has a URL this is not needed: name "
                "the URL in the job.",
                scope="submit",
                arguments=UploadArguments,
                view=ToolFileView,
                run=self._upload,
            ),
        ]

    def _list_templates(self, arguments: TemplatesArguments) -> ToolResult:
        names = self._names() if arguments.name is None else [self._template(arguments.name).name]
        view: ToolTemplatesView = {"templates": [template_view(self._library.get(name)) for name in names]}
        return ToolResult(view=view)

    def _submit_template(self, arguments: TemplateArguments) -> ToolResult:
        template = self._template(arguments.template)
        filled = template.fill(arguments.parameters, draw=draw_between)
        return self._submitted(filled_request(filled, contract=CONTRACT_V2, template=template.name), arguments)

    def _submit_workflow(self, arguments: WorkflowArguments) -> ToolResult:
        given = {"workflow": arguments.workflow}
        if lacks_graph(WorkflowArguments, given) and (hint := misplaced_graph(given, "workflow")):
            raise InvalidWorkflow(hint)
        return self._submitted(JobRequest(contract=CONTRACT_V2, graph=arguments.workflow), arguments)

    def _submitted(self, request: JobRequest, arguments: SubmitArguments) -> ToolResult:
        request = replace(with_placement(request, arguments, self._settings), label=arguments.label)
        key = arguments.idempotency_key
        if key is not None:
            request = replace(request, request_id=_id_of(key), request_digest=_digest(arguments))
        job, is_known = self._service.submit_once(request)
        return self._told(job, "This is the job that was submitted before. " if is_known else "")

    def _told(self, job: Job, before: str) -> ToolResult:
        return ToolResult(view=job_view(job, links_for(self._settings, self._ledger)), advice=f"{before}{_WAIT}")

    def _submit_batch(self, arguments: BatchArguments) -> ToolResult:
        key = arguments.idempotency_key
        body = read(BatchBody, arguments.model_dump(exclude={"idempotency_key"}, exclude_unset=True))
        batch = self._batches.submit(
            body,
            key=None if key is None else _id_of(key),
            digest=_digest(arguments),
            base_url=base_url(self._settings),
        )
        return ToolResult(view=batch_view(batch), advice=_WAIT_FOR_BATCH)

    def _upload(self, arguments: UploadArguments) -> ToolResult:
        try:
            content = base64.b64decode("".join(arguments.data_base64.split()), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidRequest("data_base64 is not valid base64.") from exc
        file, _ = self._intake.receive(io.BytesIO(content), name=input_path(arguments.file_name))
        return ToolResult(view=file_view(file), advice="In a job, its id stands where a file's name would.")

    def _names(self) -> list[str]:
        allowed = caller().limits.templates
        return [name for name in self._library.names() if allowed is None or name in allowed]

    def _template(self, name: str) -> Template:
        known = self._names()
        if name not in known:
            raise NotFound(f"There is no such template; there are: {', '.join(known)}.")
        return self._library.get(name)


def _id_of(key: str) -> str:
    """Return what the ledger calls a key: apart from ids that clients of other contracts choose."""
    return f"mcp-{hashlib.sha256(key.encode()).hexdigest()}"


def _digest(arguments: SubmitArguments) -> bytes:
    return body_digest([type(arguments).__name__, arguments.model_dump(exclude={"idempotency_key"})])
