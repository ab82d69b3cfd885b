"""The command line's side of Comfy API v2: submit, follow, cancel, list, fetch; any server that speaks it will do."""

from __future__ import annotations

import ipaddress
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

from cli.remote.answers import Job, RequestRefused, ServerUnreachable, checked_job, job_of, object_of, refuse
from cli.remote.download import DamagedDownload, Download, OnBytes
from cli.remote.error_answers import body_of, code, reason, retry_after_s, words
from cli.remote.multipart import FormFile
from cli.remote.sse import SseEvent, read_events
from cli.remote.written_files import Draft
from core.texts.json_types import JsonObject
from workflows.graphs.misplaced import is_document

TERMINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
TIMEOUT_S = 30.0
#: To connect, and for each answer; an upload takes as long as it takes, and the server may look into it after that.
UPLOAD_TIMEOUT_S = (10.0, 300.0)
READY_TIMEOUT_S = 5.0
#: A stream that is silent for longer than this is taken to be dead; servers send a comment every 15 s or so.
STREAM_SILENCE_S = 45.0
POLL_S = 1.0
#: How long a full queue, or a server that is away while a job runs, is borne with.
GIVE_UP_AFTER_S = 60.0
#: Refusals that come before anything is recorded: what was refused so may be sent again without a key.
NOT_YET = frozenset({"queue_full", "deployment_not_ready"})
#: The server has no GPU that could say which graphs it runs; a person should know that at once.
NOT_READY = "deployment_not_ready"
HEALTHY = "healthy"
#: Jobs asked for at once.
PAGE = 100


class JobList(list[Job]):
    """Jobs, and whether the server has more than were asked for."""

    def __init__(self, jobs: Iterable[Job], *, has_more: bool) -> None:
        super().__init__(jobs)
        self.has_more = has_more


class _Bearer(AuthBase):
    # Given as `auth` and not as a header: requests would replace a header by what a ~/.netrc says.
    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class Client:
    """One server. Every method raises `ServerUnreachable` or `RequestRefused`."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        """Takes the server's address, as http(s)://host[:port][/prefix]. Raises: RequestRefused - it is none."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestRefused(f"{base_url!r} is not a server's address; it looks like http://127.0.0.1:8000.")
        if not (api_key.isascii() and api_key.isprintable()):
            raise RequestRefused("The API key holds characters that a header cannot; look at --api-key, COMFY_API_KEY.")
        self.base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(api_key)
        # A server that stops waits for idle connections, and we need none: a second passes between our questions.
        self._session.headers["Connection"] = "close"
        # A proxy of the environment cannot reach this machine's own loopback.
        self._session.trust_env = not _is_loopback(parts.hostname)

    def readiness(self) -> JsonObject | None:
        """What `/ready` says when the server can run jobs: `{"instances": [{"name", "state", "kind", "device"}], ...}`.

        None when it cannot yet, or does not answer. Servers of other make may say nothing about instances.
        """
        is_ready, said = self._ready()
        return said if is_ready else None

    def condition(self) -> JsonObject | None:
        """What `/ready` says, whether the server can run jobs or not; None when it does not answer."""
        return self._ready()[1]

    def _ready(self) -> tuple[bool, JsonObject | None]:
        try:
            answer = self._session.get(f"{self.base_url}/ready", timeout=READY_TIMEOUT_S)
            value = answer.json()
        except (requests.RequestException, ValueError):
            return False, None
        return answer.ok, value if isinstance(value, dict) else None

    def unready_gpus(self) -> str:
        """For people: the states of the server's GPUs where none is healthy; empty where one is, or none is listed."""
        try:
            answer = self._session.get(f"{self.base_url}/api/v2/gpus", timeout=READY_TIMEOUT_S)
        except requests.RequestException:
            return ""
        listed = body_of(answer).get("gpus")
        gpus = [gpu for gpu in listed if isinstance(gpu, dict)] if isinstance(listed, list) else []
        if any(gpu.get("state") == HEALTHY for gpu in gpus):
            return ""
        return ", ".join(f"{gpu.get('name')} is {gpu.get('state')}" for gpu in gpus)

    def submit(self, workflow: Mapping[str, Any], placement: Mapping[str, Any] | None = None) -> Job:
        """Queue a graph in the API format. A full server is asked again for up to `GIVE_UP_AFTER_S`.

        Parameters: placement - fields of the body beside it, such as `priority`.
        Raises: ServerUnreachable - it has no GPU that is ready.
        """
        return job_of(self._post("/jobs", {"workflow": workflow, **(placement or {})}, prefix="/api/v2", has_key=True))

    def submit_template(
        self, name: str, parameters: Mapping[str, Any], placement: Mapping[str, Any] | None = None
    ) -> Job:
        """Queue a job from a workflow of the server, as `submit` does."""
        body = {"parameters": parameters, **(placement or {})}
        return job_of(self._post(f"/workflows/{_path(name)}", body, prefix="", has_key=True))

    def convert(self, document: Mapping[str, Any]) -> JsonObject:
        """The graph that the server makes of a document of the editor; what is none comes back as it is."""
        if not is_document(document):
            return dict(document)
        graph = self.post("/convert", {"workflow": document}, has_key=True).get("workflow")
        if not isinstance(graph, dict):
            raise ServerUnreachable(f"{self.base_url} answered no graph: is it a Comfyline server of this version?")
        return graph

    def rerun(self, job_id: str, changes: Mapping[str, Any]) -> Job:
        """Queue a job once more, as `submit` does. Parameters: changes - fields of the body."""
        return job_of(self._post(f"/jobs/{_path(job_id)}/rerun", changes, prefix="/api/v2", has_key=True))

    def upload_asset(self, file: BinaryIO, name: str, on_bytes: OnBytes | None = None) -> JsonObject:
        """Keep a file on the server; returns the asset, `{"id", "size_bytes", ...}`."""
        form = FormFile(file, name, {"file_path": name}, on_bytes)
        headers = {"Content-Type": form.content_type}
        asset = object_of(self._send("POST", "/assets", data=form, headers=headers, timeout=UPLOAD_TIMEOUT_S))
        if not isinstance(asset.get("id"), str):
            raise ServerUnreachable(f"{self.base_url} answered something that is no asset: is it a Comfy API server?")
        return asset

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        return job_of(self._send("GET", f"/jobs/{_path(job_id)}"))

    def printed(self, job_id: str, *, after: int = 0) -> JsonObject | None:
        """What ComfyUI printed while it ran, `{"text", "truncated", "complete", "number"}`; None: nothing, so far.

        Parameters: after - only what is newer than the piece of this number.
        """
        answer = self._send("GET", f"/jobs/{_path(job_id)}/logs", params={"after": after})
        return None if answer.status_code == requests.codes.no_content else object_of(answer)

    def cancel(self, job_id: str) -> Job:
        """Ask for its end; returns the job as it stands then. Safe to repeat."""
        return job_of(self._send("POST", f"/jobs/{_path(job_id)}/cancel"))

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its files."""
        answer = self._send("DELETE", f"/jobs/{_path(job_id)}")
        if not answer.ok:
            refuse(answer)

    def jobs(self, *, limit: int, **filters: str | None) -> JobList:
        """The newest jobs first, page after page up to `limit`.

        Parameters:
          filters: parameters of the list, such as `status`; those that are None are left out.
        """
        found: list[Job] = []
        cursor: str | None = None
        while True:
            parameters = {**filters, "limit": min(PAGE, limit - len(found)), "cursor": cursor}
            answer = self._send("GET", "/jobs", params=parameters)
            page = object_of(answer)
            found += [checked_job(job, answer) for job in page.get("jobs") or []]
            cursor = page.get("next_cursor") or None
            if cursor is None or len(found) >= limit:
                return JobList(found[:limit], has_more=cursor is not None or len(found) > limit)

    def follow(self, job_id: str, on_event: Callable[[SseEvent], None]) -> Job:
        """Report the job's events until it has ended, and return it as it ended.

        Live while the server streams events, else by asking every second; `on_event` may hear a thing twice.
        """
        streams = True
        silent_since: float | None = None
        while True:
            try:
                streams = streams and self._stream(job_id, on_event)
                job = self.job(job_id)
            except ServerUnreachable:
                # The server may be restarting: the job goes on without it.
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > GIVE_UP_AFTER_S:
                    raise
                time.sleep(POLL_S)
                continue
            silent_since = None
            _report(job, on_event)
            if job["status"] in TERMINAL:
                return job
            time.sleep(POLL_S)

    def fetch(self, output: Mapping[str, Any], folder: Path, name: str) -> Path:
        """Save one output of a job in the folder, in place of a file that has its name; returns where."""
        with Draft(folder) as draft:
            digest = output.get("hash")
            path = f"/api/v2/assets/{_path(str(output['id']))}/content"
            self.receive(path, draft, digest=digest if isinstance(digest, str) else None)
            return draft.keep_as(name)

    def get(self, path: str) -> JsonObject:
        """The JSON object at a path of the server, for what lies outside of Comfy API v2."""
        return object_of(self._send("GET", path, prefix=""))

    def ask(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> JsonObject:
        """Ask a path outside of Comfy API v2, once; parameters that are None are left out."""
        return object_of(self._send(method, path, prefix="", params=parameters, json=body))

    def text(self, path: str, *, parameters: Mapping[str, str | int | None]) -> str:
        """Return the text at a path of the server; parameters that are None are left out."""
        answer = self._send("GET", path, prefix="", params=parameters)
        if not answer.ok:
            refuse(answer)
        return answer.text

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        has_key: bool,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> JsonObject:
        """Queue something at a path outside of Comfy API v2, as patiently as `submit`; returns the answer.

        Parameters:
          has_key: whether the path honours an Idempotency-Key, so that any try may be repeated.
          key: which one; None: a new one.
        """
        return object_of(self._post(path, body, prefix="", has_key=has_key, key=key, timeout_s=timeout_s))

    def upload(self, path: str, file: BinaryIO, name: str) -> JsonObject:
        """Send a file as a form's `file`, with its `name` beside it; returns the answer."""
        return object_of(self._send("POST", path, prefix="", files={"file": (name, file)}, data={"name": name}))

    def receive(self, path: str, draft: Draft, on_bytes: OnBytes | None = None, *, digest: str | None = None) -> None:
        """Write the bytes at a path of the server into a draft; what breaks off goes on where it was.

        Parameters:
          digest: the hash of the file, `blake3:...`; without it, what the server's ETag says is checked.
        """

        def ask(headers: Mapping[str, str]) -> requests.Response:
            answer = self._send("GET", path, prefix="", stream=True, headers=headers)
            if not answer.ok:
                with answer:
                    refuse(answer)
            return answer

        try:
            Download(ask, draft, on_bytes, digest=digest).run()
        except DamagedDownload as exc:
            raise ServerUnreachable(f"{self.base_url}{path}: {exc}") from exc
        except requests.RequestException as exc:
            raise ServerUnreachable(f"{self.base_url} broke off while it sent {path}: {reason(exc)}.") from exc

    def _stream(self, job_id: str, on_event: Callable[[SseEvent], None]) -> bool:
        """Follow one stream to its end. Returns whether asking for another makes sense."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        path = f"/jobs/{_path(job_id)}/events"
        answer = self._send("GET", path, headers=headers, stream=True, timeout=(10, STREAM_SILENCE_S))
        with answer:
            if answer.status_code in (401, 403, 404):
                refuse(answer)
            if not answer.ok:
                return answer.status_code in (429, 503)
            for event in read_events(answer.raw):
                on_event(event)
                if event.name == "status" and event.data.get("status") in TERMINAL:
                    break
        return True

    def _post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        prefix: str,
        has_key: bool,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> requests.Response:
        # One key for all tries, so that no two of them can become two jobs.
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        while True:
            answer = self._send("POST", path, prefix=prefix, json=body, headers=headers, timeout=timeout_s)
            if code(answer) == NOT_READY:
                # Which they are, as far as the server says; else where to look.
                states = self.unready_gpus()
                where = (
                    f"{states}; comfyline gpus says why." if states else "Does a GPU worker run? See comfyline gpus."
                )
                raise ServerUnreachable(f"{self.base_url} has no GPU that is ready: {words(answer)} {where}")
            pause_s = retry_after_s(answer)
            is_worth_it = answer.status_code in (429, 503) and (has_key or code(answer) in NOT_YET)
            if not is_worth_it or pause_s is None or time.monotonic() + pause_s > give_up_at:
                return answer
            time.sleep(pause_s)

    def _send(self, method: str, path: str, *, prefix: str = "/api/v2", **options: Any) -> requests.Response:
        options.setdefault("timeout", TIMEOUT_S)
        try:
            return self._session.request(method, f"{self.base_url}{prefix}{path}", **options)
        except requests.RequestException as exc:
            raise ServerUnreachable(
                f"{self.base_url} does not answer ({reason(exc)}). Start one with `make up`, or name another with "
                "--server or COMFY_BASE_URL."
            ) from exc


def _report(job: Job, on_event: Callable[[SseEvent], None]) -> None:
    """What a poll says, in the words of the stream."""
    if job["status"] not in TERMINAL and job.get("progress"):
        on_event(SseEvent(name="progress", data=job["progress"]))
    place: dict[str, Any] = {key: job[key] for key in ("queue_position", "estimated_wait_ms", "queue") if key in job}
    on_event(SseEvent(name="status", data={"status": job["status"], **place}))


def _path(segment: str) -> str:
    return quote(segment, safe="")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
