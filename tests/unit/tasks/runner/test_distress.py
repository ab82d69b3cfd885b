"""The pipe on which a pool process says that its instance has to be replaced."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator
from typing import IO, Any

import pytest

from core.background import Loop
from tasks.runner import distress
from tasks.runner.distress import MAX_MESSAGE_BYTES, CondemnPipe, RecallPipe


class Listening:
    """A pipe, what is heard on it, and the loop that listens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pipe = CondemnPipe()
        self._heard: queue.Queue[str] = queue.Queue()
        self.loops: list[Loop] = []
        self.files: list[IO[Any]] = []
        monkeypatch.setattr(distress, "Loop", self._loop)
        fdopen = os.fdopen

        def opened(*arguments: Any, **options: Any) -> IO[Any]:
            self.files.append(fdopen(*arguments, **options))
            return self.files[-1]

        with monkeypatch.context() as patch:
            patch.setattr("tasks.runner.distress.os.fdopen", opened)
            self.pipe.listen(self._heard.put)

    def heard(self) -> str:
        return self._heard.get(timeout=10)

    def end(self) -> None:
        """The pool process ends, and with it the listening."""
        os.close(self.pipe._writer)
        self.loops[0].join(10)
        self.files[0].close()

    def _loop(self, *arguments: Any) -> Loop:
        self.loops.append(Loop(*arguments))
        return self.loops[-1]


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    listening = Listening(monkeypatch)
    yield listening
    listening.end()
    assert not listening.loops[0].life.is_alive, "the listener ends with the writer"
    assert listening._heard.empty()


def test_each_message_is_heard_as_one_line(listening: Listening) -> None:
    for what in ("It hangs.", "two\nlines", "\udc80"):
        listening.pipe.say(what)
    assert [listening.heard() for _ in range(3)] == ["It hangs.", "two lines", "?"]


def test_what_is_too_long_is_cut(listening: Listening) -> None:
    for char in ("é", "x"):
        listening.pipe.say(char * MAX_MESSAGE_BYTES)
    assert listening.heard() == "é" * (MAX_MESSAGE_BYTES // 2)
    assert listening.heard() == "x" * MAX_MESSAGE_BYTES


def test_linux_mixes_no_messages_of_this_length() -> None:
    assert MAX_MESSAGE_BYTES == 1000


def test_nobody_waits_for_a_listener_that_does_not_read() -> None:
    pipe = RecallPipe()
    # A pipe holds 64 KiB.
    for number in range(2 * 65536 // 100):
        pipe.say(f"{number:0>100}")
    with os.fdopen(pipe._reader) as heard:
        os.close(pipe._writer)
        lines = heard.read().splitlines()
    assert 500 < len(lines) < 800
    assert [int(line) for line in lines] == list(range(len(lines))), "what did not fit is lost whole"
