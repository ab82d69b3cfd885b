"""Dry runs of a server: what would become of a graph or a template, with the files of this machine that it names."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cli.remote.answers import RequestRefused, ServerUnreachable
from cli.remote.client import Client
from cli.remote.local_files import local_files
from cli.remote.written_files import is_file
from core.errors import ConfigurationError
from core.texts.json_types import JsonObject

#: Files that are sent along within the request, together; larger ones stay names.
MAX_SENT_BYTES = 8 * 1024 * 1024


class DryRunClient:
    """One server's dry runs. Every method raises `ServerUnreachable` or `RequestRefused`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._left_bytes = MAX_SENT_BYTES
        #: Files that are too large to be sent along.
        self.left_out: list[Path] = []

    def graph(self, workflow: JsonObject, folder: Path, placement: Mapping[str, Any]) -> JsonObject:
        """The report on a graph, or on what the editor saves. Parameters: folder - where its files are looked up."""
        return self._report("/api/v2/jobs", {"workflow": self._with_files(workflow, folder), **placement})

    def template(self, name: str, parameters: Mapping[str, Any], placement: Mapping[str, Any]) -> JsonObject:
        """The report on a workflow of the server; a parameter that takes a picture may name a file of this machine."""
        path = f"/workflows/{quote(name, safe='')}"
        described = self._client.get(path).get("parameters")
        schema = described.get("properties") if isinstance(described, dict) else None
        values = dict(parameters)
        for each, value in parameters.items():
            declared = schema.get(each) if isinstance(schema, dict) else None
            takes_file = isinstance(declared, dict) and "contentMediaType" in declared
            if takes_file and isinstance(value, str) and is_file(Path(value)):
                values[each] = self._sent(Path(value)) or value
        return self._report(path, {"parameters": values, **placement})

    def _with_files(self, workflow: JsonObject, folder: Path) -> JsonObject:
        graph = workflow
        # What cannot be converted the report tells.
        with suppress(RequestRefused):
            graph = self._client.convert(workflow)
        found = [(*place, sent) for *place, file in local_files(graph, folder) if (sent := self._sent(file))]
        if not found:
            return workflow
        nodes = dict(graph)
        for node_id, name, sent in found:
            nodes[node_id] = {**nodes[node_id], "inputs": {**nodes[node_id]["inputs"], name: sent}}
        return nodes

    def _sent(self, file: Path) -> str | None:
        """The file as a value of the request; None: it is too large."""
        try:
            size_bytes = file.stat().st_size
            if size_bytes > self._left_bytes:
                self.left_out.append(file)
                return None
            self._left_bytes -= size_bytes
            return f"data:application/octet-stream;base64,{base64.b64encode(file.read_bytes()).decode()}"
        except OSError as exc:
            raise ConfigurationError(f"{file} cannot be read: {exc.strerror}.") from exc

    def _report(self, path: str, body: Mapping[str, Any]) -> JsonObject:
        answer = self._client.ask("POST", path, parameters={"dry_run": "true"}, body=body)
        if answer.get("dry_run") is True:
            return answer
        # An older server, or one of other make, took it for a submission.
        if isinstance(job_id := answer.get("id"), str):
            self._client.cancel(job_id)
            raise RequestRefused(
                f"{self._client.base_url} knows no dry runs: it took this as a job, {job_id}, which was cancelled."
            )
        raise ServerUnreachable(f"{self._client.base_url} answered something that is no dry run.")
