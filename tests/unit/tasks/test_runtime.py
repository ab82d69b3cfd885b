"""What the tasks of a process share, and the line that each leaves in the log."""

from __future__ import annotations

import functools
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from celery.states import FAILURE, SUCCESS

from core.ledger import Change
from core.messaging.notices import Notice
from core.records.job import DELIVERING, QUEUED, RUNNING
from core.settings import Settings
from tasks import runtime as runtime_module
from tasks.messaging.app import make_app
from tasks.messaging.context import context_of
from tasks.messaging.names import UPLOAD
from tasks.runtime import Runtime, equip
from tasks.upload import upload
from tests.ledger_moves import submit
from tests.makers import BrokerlessRuntime, Stopwatch


def change_of(status: str, *, is_posted: bool) -> Change:
    fields: dict[str, Any] = {"job_id": "j1", "status": status, "seq": 4, "is_posted": is_posted}
    return Change(**fields)


class TestAnnouncing:
    @pytest.fixture
    def told(self, runtime: BrokerlessRuntime) -> list[str]:
        """Jobs whose webhooks are to be sent."""
        told: list[str] = []
        runtime.sender = SimpleNamespace(notify=told.append)  # type: ignore[assignment]
        return told

    def test_a_change_is_noticed(self, runtime: BrokerlessRuntime, told: list[str]) -> None:
        runtime._announce(change_of(RUNNING, is_posted=False))
        assert runtime.noticed.sent == [Notice(job_id="j1", kind="status", seq=4, status=RUNNING)]
        assert told == []

    def test_and_told_where_somebody_wants_to_be_told(self, runtime: BrokerlessRuntime, told: list[str]) -> None:
        runtime._announce(change_of(QUEUED, is_posted=True))
        assert (told, len(runtime.noticed.sent)) == (["j1"], 1)

    def test_what_clients_see_no_difference_in_is_not_noticed(
        self, runtime: BrokerlessRuntime, told: list[str]
    ) -> None:
        runtime._announce(change_of(DELIVERING, is_posted=True))
        assert (told, runtime.noticed.sent) == (["j1"], [])


class TestEquipping:
    def test_an_app_gets_a_runtime_of_its_own(self, sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        app = make_app(sqlite_settings, "io")
        inherited = equip(app, sqlite_settings)
        runtime = equip(app, sqlite_settings)
        assert context_of(app)[Runtime] is runtime is not inherited
        announced: list[str] = []
        monkeypatch.setattr(runtime.notices, "send", lambda notice: announced.append(notice.job_id))
        job = submit(runtime.ledger)
        assert announced == [job.id]
        closed: list[str] = []
        for name in ("notices", "ledger"):
            monkeypatch.setattr(getattr(runtime, name), "close", functools.partial(closed.append, name))
        runtime.close()
        monkeypatch.undo()
        assert closed == ["notices", "ledger"]
        runtime.close()
        inherited.close()


class TestLogLine:
    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(runtime_module, "time", watch)
        return watch

    @pytest.fixture
    def task(self, runtime: BrokerlessRuntime) -> Any:
        task = make_app(runtime.settings, "io").tasks[upload.name]
        task.push_request(chain=["next"])
        yield task
        task.pop_request()

    def end(self, task: Any, watch: Stopwatch, status: str, result: Any) -> None:
        task.before_start("id", ("j1",), {})
        watch.now_s += 1.5
        task.after_return(status, result, "id", ("j1",), {}, None)

    def test_what_was_reported_is_news(self, task: Any, watch: Stopwatch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        task.report("job j1")
        self.end(task, watch, SUCCESS, "j1")
        [record] = caplog.records
        assert (record.levelno, record.getMessage()) == (logging.INFO, f"{UPLOAD} success seconds=1.500: job j1")

    @pytest.mark.parametrize(
        ("result", "said"), [("nothing to do", "['j1']: nothing to do"), (["j1", 1], "['j1']"), (None, "['j1']")]
    )
    def test_without_it_there_is_a_line_for_debugging(
        self, task: Any, watch: Stopwatch, caplog: pytest.LogCaptureFixture, result: Any, said: str
    ) -> None:
        caplog.set_level(logging.DEBUG)
        self.end(task, watch, SUCCESS, result)
        [record] = caplog.records
        assert (record.levelno, record.getMessage()) == (logging.DEBUG, f"{UPLOAD} success seconds=1.500: {said}")

    def test_a_failure_is_news(self, task: Any, watch: Stopwatch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self.end(task, watch, FAILURE, KeyError("x"))
        assert caplog.records[0].levelno == logging.INFO

    def test_one_that_was_not_seen_to_start_took_no_time(
        self, task: Any, watch: Stopwatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        task.after_return(SUCCESS, None, "id", (), {}, None)
        assert "seconds=0.000" in caplog.text

    def test_a_task_finds_the_runtime_of_its_process(self, task: Any, runtime: BrokerlessRuntime) -> None:
        context_of(task.app)._held[Runtime] = runtime
        assert task.runtime is runtime

    def test_a_chain_can_be_cut_off(self, task: Any) -> None:
        assert task.request.chain
        assert task.end_chain("why") == "why"
        assert task.request.chain is None
