"""The command line's side of the PyWorker contract: upload an image, queue a task, ask for it, fetch its files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from cli.remote.answers import ServerUnreachable
from cli.remote.client import GIVE_UP_AFTER_S, POLL_S, Client
from cli.remote.download import OnBytes
from cli.remote.written_files import Draft, safe_name
from core.errors import ConfigurationError, InvalidRequest

#: A job in the words of that contract: `id`, `status`, `message`, `output`.
Task: TypeAlias = dict[str, Any]

ENDED = frozenset({"completed", "failed", "cancelled", "timeout"})


class TaskClient:
    """One server. Every method raises `ServerUnreachable` or `RequestRefused`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def workflow_names(self) -> list[str]:
        """Return the names of the server's workflows."""
        found = self._client.get("/workflows").get("workflows")
        if not isinstance(found, list) or not all(isinstance(each, dict) and "name" in each for each in found):
            raise self._no_sense("list of workflows")
        return [str(each["name"]) for each in found]

    def upload(self, image: Path) -> str:
        """Give the server an image; returns what stands for it as the value of an image parameter.

        Raises: ConfigurationError - the file cannot be read.
        """
        try:
            with image.open("rb") as file:
                answer = self._client.upload("/upload/image", file, safe_name(image.name))
        except OSError as exc:
            raise ConfigurationError(f"{image} cannot be read: {exc.strerror}.") from exc
        if not isinstance(answer.get("path"), str):
            raise self._no_sense("answer to an upload")
        return str(answer["path"])

    def submit_graph(self, graph: Mapping[str, Any], fields: Mapping[str, Any], placement: Mapping[str, Any]) -> Task:
        """Queue a graph of one's own; the fields fill its placeholders, the placement stands beside them."""
        body = {"workflow": graph, "custom_fields": fields, **placement}
        return self._task(self._client.post("/custom_workflow", body, has_key=False))

    def submit_workflow(self, name: str, parameters: Mapping[str, Any], placement: Mapping[str, Any]) -> Task:
        """Queue a workflow of the server; the answer is a job of Comfy API v2."""
        path = f"/workflows/{quote(name, safe='')}"
        return self._task(self._client.post(path, {"parameters": parameters, **placement}, has_key=True))

    def task(self, task_id: str) -> Task:
        """Return the task as it stands."""
        return self._task(self._client.get(f"/task/{quote(task_id, safe='')}"))

    def wait(self, task_id: str, on_status: Callable[[str], None]) -> Task:
        """Ask until the task has ended; a server that is away is borne with for up to `GIVE_UP_AFTER_S`."""
        silent_since: float | None = None
        while True:
            try:
                task = self.task(task_id)
            except ServerUnreachable:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > GIVE_UP_AFTER_S:
                    raise
            else:
                silent_since = None
                on_status(task["status"])
                if task["status"] in ENDED:
                    return task
            time.sleep(POLL_S)

    def fetch(self, path: str, folder: Path, on_bytes: OnBytes | None = None) -> Path:
        """Save the file of a task in the folder, under its own name, numbered where that is taken; returns where.

        Parameters:
          path: the `local_path` of an output, `<job id>/<file name>`.
        Raises: InvalidRequest - the path is none. ConfigurationError - nothing can be written in the folder.
        """
        parts = path.split("/")
        # These would be resolved on the way, and ask for something else.
        if any(part in ("", ".", "..") for part in parts):
            raise InvalidRequest(f"{path!r} is no path of a task's file; it looks like <task id>/<file name>.")
        with Draft(folder) as draft:
            self._client.receive(f"/download/{quote(path)}", draft, on_bytes)
            return draft.keep_beside(safe_name(parts[-1]))

    def _task(self, value: Task) -> Task:
        if not (isinstance(value.get("id"), str) and isinstance(value.get("status"), str)):
            raise self._no_sense("task")
        return value

    def _no_sense(self, what: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"{self._client.base_url} answered something that is no {what}: is it a Comfyline server?"
        )


def file_paths(task: Task) -> list[str]:
    """Return the paths of a task's files, as `TaskClient.fetch` takes them."""
    outputs = task.get("output")
    found = [each.get("local_path") for each in outputs if isinstance(each, dict)] if isinstance(outputs, list) else []
    return [path for path in found if isinstance(path, str) and path]
