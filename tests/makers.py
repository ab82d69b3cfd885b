"""Stand-ins for what surrounds the objects of a GPU worker, and short ways to make those objects without processes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

import pytest

from comfy.client.history import History
from comfy.client.outputs import ReportedOutput
from comfy.client.printed import PrintedEntry
from comfy.prompts.progress import PromptListener
from comfy.prompts.session import PromptHandle, PromptResult
from core.clock import ledger_clock
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.scheduling.turns import Turn
from core.messaging.notices import Notice, NoticeSender
from core.records.instance import InstanceRecord
from core.records.job import SUCCEEDED, Job, Status
from core.records.progress import Progress
from core.settings import Settings
from core.storage.marker import StorageMarker
from tasks.messaging.publish import BackgroundSender, Publisher
from tasks.runtime import Runtime
from tests.waiting import PATIENCE

#: The instance that is meant where none is named, and its worker.
NAME, WORKER = "gpu0@here", "w"
#: A graph that saves one picture.
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "picture"}},
}


class StoppedClock:
    """The ledger's time, which passes only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1_800_000_000_000
        monkeypatch.setattr(ledger_clock, "now_ms", lambda: self.now_ms)

    def pass_ms(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds


class Stopwatch:
    """What a module knows as `time`, which passes only when the test says so, or somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        #: How long somebody slept, each time.
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


class PublishedMessages(Publisher):
    """A publisher that keeps what was published, `(method, *arguments)`."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def turn(self, job_id: str, *, recorded_s: float | None = None) -> bool:
        return self._keep("turn", job_id)

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        return self._keep("store", job_id, attempt, host)

    def notify(self, job_id: str) -> bool:
        return self._keep("notify", job_id)

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        self._keep("interrupt", job_id, attempt, instance)

    def check_upload(self, upload_id: str) -> bool:
        return self._keep("check_upload", upload_id)

    def look_again(self) -> bool:
        return self._keep("look_again")

    def turn_for(self, turn: Turn) -> bool:
        return self._keep("turn", turn.job_id)

    def wake(self) -> None:
        """Nobody is idle."""

    def pass_gates(self) -> bool:
        return self._keep("pass_gates")

    def ended(self, claim: Claim) -> None:
        """Nobody is idle."""

    def own_turn(self, job_id: str, instance: str) -> bool:
        return self._keep("own_turn", job_id, instance)

    def _keep(self, *message: Any) -> bool:
        self.sent.append(message)
        return True


class SentNotices(NoticeSender):
    """A sender that keeps the notices."""

    def __init__(self) -> None:
        self.sent: list[Notice] = []

    def send(self, notice: Notice) -> None:
        self.sent.append(notice)

    def close(self) -> None:
        """Nothing to close."""


class BrokerlessRuntime(Runtime):
    """A process's runtime with a ledger of its own, and a broker that only takes notes."""

    def __init__(self, settings: Settings, _app: object = None) -> None:
        self.settings = settings
        self.notices = self.noticed = SentNotices()
        self.ledger = Ledger(settings)
        self.storage = StorageMarker(settings, self.ledger.storage_moves)
        self.publisher = self.published = PublishedMessages()
        self.sender = cast(BackgroundSender, self.published)
        self.is_closed = False

    def close(self) -> None:
        super().close()
        self.is_closed = True


def job_record(status: Status = SUCCEEDED, **fields: Any) -> Job:
    """Return a job as the ledger has it, of Comfy API v2 and in its first attempt, but for what `fields` say."""
    values: dict[str, Any] = {"id": "j1", "contract": "v2", "attempt": 1, "last_seq": 4, "priority": 0}
    values |= {"nodes_total": 2, "created_at_ms": 1_000, "updated_at_ms": 1_000}
    values |= {"expires_at_ms": 9_500, "files_expire_at_ms": 9_000}
    return Job(status=status, **{**values, **fields})


def come_up(ledger: Ledger, name: str = NAME, **fields: Any) -> InstanceRecord:
    """Make a healthy instance known, and return its row.

    Parameters:
      fields: `kind`, or of what its worker reports: `url`, `output_dir`, `object_info`, `device`.
    """
    kind = fields.pop("kind", "simulator")
    ledger.instances.register(name=name, host="here", worker=WORKER, kind=kind, gpu="0")
    reported: dict[str, Any] = {"url": "http://127.0.0.1:1", "output_dir": None, "version": "1", "device": "d"}
    reported |= {"object_info": {}, "restarts": 0}
    ledger.instances.up(name, worker=WORKER, **{**reported, **fields})
    return record_of(ledger, name)


def record_of(ledger: Ledger, name: str = NAME) -> InstanceRecord:
    """The row of an instance that is known."""
    record = ledger.instances.get(name)
    assert record is not None
    return record


def result_of(prompt_id: str, **fields: Any) -> PromptResult:
    """A prompt that ran whole in one second and made nothing, but for what `fields` say."""
    values: dict[str, Any] = {"prompt_id": prompt_id, "outputs": [], "cached_nodes": ()}
    values |= {"history": History(prompt_id=prompt_id, status="success")}
    values |= {"started_at_ms": 1_000, "finished_at_ms": 2_000}
    return PromptResult(**{**values, **fields})


def saved_file(name: str = "picture_00001_.png", node_id: str = "2", **fields: Any) -> ReportedOutput:
    """One file as ComfyUI's history tells of it."""
    values: dict[str, Any] = {"node_id": node_id, "key": "images", "kind": "image", "filename": name}
    values |= {"subfolder": "", "folder": "output"}
    return ReportedOutput(**{**values, **fields})


class Prompt:
    """A posted prompt that the test begins and ends, where `PromptHandle` would follow ComfyUI."""

    def __init__(self, prompt_id: str = "", listener: PromptListener | None = None, **posted: Any) -> None:
        self.prompt_id = prompt_id
        #: What it was posted with.
        self.posted = posted
        self.started = threading.Event()
        self.node_seconds: dict[str, float] = {}
        self.interrupted = 0
        #: What an interrupt raises.
        self.interrupt_error: Exception | None = None
        #: For how long somebody waits for it, and that somebody does: whoever posted it knows of it by then.
        self.timeout_s: float | None = None
        self.is_followed = threading.Event()
        self._listener = listener
        self._ended: Future[PromptResult] = Future()

    def as_handle(self) -> PromptHandle:
        """What it stands for, for the type checker."""
        return cast(PromptHandle, self)

    def wait(self, *, timeout_s: float) -> PromptResult:
        self.timeout_s = timeout_s
        self.is_followed.set()
        return self._ended.result(timeout=20 * PATIENCE)

    def interrupt(self) -> None:
        self.interrupted += 1
        if self.interrupt_error is not None:
            raise self.interrupt_error

    def begin(self) -> None:
        """ComfyUI takes it up, and whoever listens hears of it."""
        self.started.set()
        if self._listener is not None:
            self._listener.on_started()

    def progress(self) -> None:
        """A sign of life."""
        assert self._listener is not None
        self._listener.on_progress(Progress(value=0.5))

    def preview(self, node_id: str, data: bytes) -> None:
        """A picture comes over the websocket."""
        assert self._listener is not None
        self._listener.on_preview(node_id, "image/png", data)

    @property
    def is_over(self) -> bool:
        return self._ended.done()

    def end(self, **fields: Any) -> None:
        """It ran whole."""
        self._ended.set_result(result_of(self.prompt_id, **fields))

    def fail(self, error: Exception) -> None:
        """It ends with an error."""
        self._ended.set_exception(error)


class FakeClient:
    """What a session's HTTP client is asked for."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.cleared = 0
        #: Names of files that the instance has.
        self.has_files: set[str] = set()

    def clear(self) -> None:
        self.cleared += 1

    def has(self, item: ReportedOutput) -> bool:
        return item.filename in self.has_files

    def printed(self) -> list[PrintedEntry] | None:
        """It does not tell what it has printed."""
        return None


class FakeComfyUI:
    """Takes the place of `ComfySession` where a runner connects: sessions, and the prompts that were posted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sessions: list[FakeSession] = []
        #: In the order in which they were posted.
        self.prompts: list[Prompt] = []
        #: What the next posts raise.
        self.refusals: list[Exception] = []
        self._posted = threading.Condition()
        monkeypatch.setattr("tasks.runner.connection.ComfySession", self._session)

    def prompt(self, number: int) -> Prompt:
        """The prompt that was posted as the one of this number, from 0; waits for it, and for who follows it."""
        with self._posted:
            assert self._posted.wait_for(lambda: len(self.prompts) > number, 20 * PATIENCE), "it was never posted"
            prompt = self.prompts[number]
        assert prompt.is_followed.wait(20 * PATIENCE), "nobody follows it"
        return prompt

    def take(self, prompt: Prompt) -> None:
        """Queue a prompt."""
        with self._posted:
            if self.refusals:
                raise self.refusals.pop(0)
            self.prompts.append(prompt)
            self._posted.notify_all()

    def _session(self, base_url: str, *, pace: object) -> FakeSession:
        self.sessions.append(FakeSession(self, base_url, pace))
        return self.sessions[-1]


class FakeSession:
    """A connection with a `FakeComfyUI`."""

    def __init__(self, comfyui: FakeComfyUI, base_url: str, pace: object) -> None:
        self.client = FakeClient(base_url)
        self.pace = pace
        self.is_connected = False
        self._comfyui = comfyui

    def open(self) -> None:
        self.is_connected = True

    def close(self) -> None:
        self.is_connected = False

    def submit(self, graph: Mapping[str, Any], *, prompt_id: str, **posted: Any) -> Prompt:
        prompt = Prompt(prompt_id, graph=graph, **posted)
        self._comfyui.take(prompt)
        return prompt
