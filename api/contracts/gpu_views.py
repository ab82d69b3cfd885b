"""A GPU as operators see it: how it stands, what it holds, what it could run, and what it takes next."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from typing import Annotated, get_args

from pydantic import Field
from typing_extensions import TypedDict

from core.clock import now_ms
from core.ledger.durations import gpu_kind
from core.ledger.instances import HEALTHY
from core.ledger.scheduling.outlook import Outlook
from core.records.instance import InstanceRecord
from core.records.model_file import ModelCopy
from core.scheduling.next_jobs import TAKES_NONE, Next, NextCode, next_of_each, next_sentence
from core.scheduling.picture import FleetGpu, WaitingLine

#: Lines of waiting jobs that are shown of each GPU.
LINES_SHOWN = 20


class HeldModelView(TypedDict):
    """A model file in a GPU's memory, as far as we can know."""

    name: str
    size_bytes: Annotated[int | None, Field(description="Of the file; null where its ComfyUI does not tell.")]


class GpuLineView(TypedDict):
    """Waiting jobs of one kind that a GPU can run."""

    priority: int
    models: Annotated[list[str], Field(description="Model files that they load.")]
    is_held: Annotated[bool, Field(description="Whether this GPU holds all of them.")]
    waiting: Annotated[int, Field(description="How many jobs.")]
    oldest_waits_s: Annotated[float, Field(description="Since the oldest of them came.")]


class NextView(TypedDict):
    """What a GPU takes next, if things go as expected and no new job comes; and why."""

    job_id: Annotated[str | None, Field(description="Null if it takes none, or if the job is far back in its line.")]
    models: Annotated[list[str] | None, Field(description="Model files that the job loads; null if it takes none.")]
    in_s: Annotated[float | None, Field(description="Until it takes the job; null if it takes none.")]
    load_s: Annotated[float, Field(description="How long it loads models then, expected.")]
    why: Annotated[str, Field(description="Of this choice.", json_schema_extra={"enum": list(get_args(NextCode))})]
    reason: Annotated[str, Field(description="The same in plain English.")]


class FileOnItsWayView(TypedDict):
    """A model file that a GPU's host fetches, or could not fetch."""

    path: Annotated[str, Field(description="As ComfyUI sees it.")]
    state: Annotated[str, Field(json_schema_extra={"enum": ["fetching", "failed"]})]
    size_bytes: Annotated[int | None, Field(description="Of the whole file; null as long as nobody knows.")]
    done_bytes: Annotated[int, Field(description="How much of it is there.")]
    bytes_per_s: Annotated[float, Field(description="How fast it comes, of late.")]
    left_s: Annotated[float | None, Field(description="Until it is there; null where that cannot be told.")]
    error: Annotated[str | None, Field(description="Why it failed; it is tried again.")]


class GpuView(TypedDict):
    """A GPU with its ComfyUI, as operators see it."""

    name: Annotated[str, Field(description="gpu0@host.")]
    host: str
    state: str
    reason: Annotated[str | None, Field(description="Of its state.")]
    kind: Annotated[str, Field(json_schema_extra={"enum": ["simulator", "comfyui", "attached"]})]
    is_simulated: bool
    gpu: str | None
    device: str | None
    gpu_kind: Annotated[str, Field(description="Of GPUs with the same word it is learned together how fast they are.")]
    vram_bytes: int | None
    pool: Annotated[str | None, Field(description="COMFYLINE_POOL of its worker.")]
    version: str | None
    job_id: Annotated[str | None, Field(description="The job it runs now.")]
    free_in_s: Annotated[
        float | None,
        Field(description="Until it has done all it has claimed, expected; 0 if it is idle, null if it takes no jobs."),
    ]
    models: Annotated[list[HeldModelView], Field(description="Those it holds, the most recently used first.")]
    model_files: Annotated[
        list[FileOnItsWayView], Field(description="Of the manifest, those that its host fetches or could not fetch.")
    ]
    loads_today: Annotated[int, Field(description="Loads of models that jobs waited for, since midnight UTC.")]
    loading_s_today: Annotated[float, Field(description="How long those took, as expected when the jobs were taken.")]
    lines: Annotated[
        list[GpuLineView],
        Field(description=f"Waiting jobs that it can run, the most urgent first; {LINES_SHOWN} lines at most."),
    ]
    lines_count: Annotated[int, Field(description="How many such lines there are.")]
    next: NextView
    restarts: int
    warmup_s: float | None
    started_at_ms: int
    up_since_ms: Annotated[
        int | None, Field(description="When it answered first after its last start; null if it does not.")
    ]
    heartbeat_at_ms: int
    quarantined_until_ms: int | None


class GpusView(TypedDict):
    gpus: list[GpuView]


class GpuViews:
    """Makes the views of a fleet's GPUs from one look at what waits; what many have in common is made once."""

    def __init__(self, outlook: Outlook, copies: Iterable[ModelCopy] = ()) -> None:
        """Parameters:
        copies: what hosts have of the manifest's files.
        """
        self._outlook = outlook
        self._on_their_way: dict[str, list[FileOnItsWayView]] = {}
        for copy in copies:
            if copy.state != "ready":
                self._on_their_way.setdefault(copy.host, []).append(_on_its_way(copy))
        self._waited_ms = now_ms() - outlook.at_ms
        self._gpus = {gpu.name: gpu for gpu in outlook.picture.gpus}
        self._lines = {each.line.id: each for each in outlook.picture.lines}
        self._next = next_of_each(outlook.picture, outlook.forecast)
        wanted = {(found.line_id, found.index) for found in self._next.values() if found.line_id is not None}
        self._job_ids = {place: job_id for job_id, place in outlook.indexes.items() if place in wanted}
        #: Of the GPUs that can run the same lines: how many those are, and the first of them.
        self._first: dict[frozenset[int] | None, tuple[int, list[WaitingLine]]] = {}

    def knows(self, record: InstanceRecord) -> bool:
        """Return whether a GPU that takes jobs took them then."""
        return record.state != HEALTHY or record.name in self._gpus

    def view(self, record: InstanceRecord) -> GpuView:
        """Return a GPU as operators see it, without the address of its ComfyUI and the paths of its files."""
        gpu = self._gpus.get(record.name) if record.state == HEALTHY else None
        count, first = (0, []) if gpu is None else self._lines_of(gpu)
        return {
            "name": record.name,
            "host": record.host,
            "state": record.state,
            "reason": record.reason,
            "kind": record.kind,
            "is_simulated": record.is_simulated,
            "gpu": record.gpu,
            "device": record.device,
            "gpu_kind": gpu_kind(record.device, record.kind),
            "vram_bytes": record.vram_bytes,
            "pool": record.pool,
            "version": record.version,
            "job_id": record.job_id,
            "free_in_s": None if gpu is None else self._since_then(gpu.gpu.free_s),
            "models": [{"name": model.name, "size_bytes": model.size_bytes} for model in record.held],
            "model_files": self._on_their_way.get(record.host, []),
            "loads_today": record.loads,
            "loading_s_today": round(record.loading_s, 3),
            "lines": [self._line(line, record) for line in first],
            "lines_count": count,
            "next": self._next_view(TAKES_NONE if gpu is None else self._next[record.name]),
            "restarts": record.restarts,
            "warmup_s": record.warmup_s,
            "started_at_ms": record.started_at_ms,
            "up_since_ms": record.up_since_ms,
            "heartbeat_at_ms": record.heartbeat_at_ms,
            "quarantined_until_ms": record.quarantined_until_ms,
        }

    def _next_view(self, found: Next) -> NextView:
        outlook = self._outlook
        has_job = found.line_id is not None
        return {
            "job_id": self._job_ids.get((found.line_id or 0, found.index or 0)) if has_job else None,
            "models": list(outlook.picture.files.get(found.models, ())) if has_job else None,
            "in_s": None if found.in_s is None else self._since_then(found.in_s),
            "load_s": round(found.load_s, 3),
            "why": found.code,
            "reason": next_sentence(found, outlook.picture.files),
        }

    def _since_then(self, seconds: float) -> float:
        """Return what is left of seconds that were left when the fleet was looked at."""
        return round(max(0.0, seconds - self._waited_ms / 1000), 3)

    def _line(self, line: WaitingLine, record: InstanceRecord) -> GpuLineView:
        kind = self._outlook.kinds[line.line.id]
        return {
            "priority": line.line.priority,
            "models": list(kind.files),
            "is_held": {model.name for model in record.held}.issuperset(kind.files),
            "waiting": line.line.waiting,
            "oldest_waits_s": round(max(0.0, now_ms() / 1000 - line.line.since_s), 3),
        }

    def _lines_of(self, gpu: FleetGpu) -> tuple[int, list[WaitingLine]]:
        """Return how many lines a GPU can run, and the first of them."""
        if gpu.can_run not in self._first:
            able = self._able(gpu)
            self._first[gpu.can_run] = len(able), nsmallest(LINES_SHOWN, able, key=_urgency)
        return self._first[gpu.can_run]

    def _able(self, gpu: FleetGpu) -> list[WaitingLine]:
        wanted: Iterable[int] = self._lines if gpu.can_run is None else gpu.can_run
        return [self._lines[line_id] for line_id in wanted if line_id in self._lines]


def _on_its_way(copy: ModelCopy) -> FileOnItsWayView:
    return {
        "path": copy.path,
        "state": copy.state,
        "size_bytes": copy.size_bytes,
        "done_bytes": copy.done_bytes,
        "bytes_per_s": round(copy.bytes_s, 1),
        "left_s": None if copy.left_s is None else round(copy.left_s, 3),
        "error": copy.error,
    }


def _urgency(line: WaitingLine) -> tuple[int, float, int]:
    return -line.line.priority, line.line.since_s, line.line.id
