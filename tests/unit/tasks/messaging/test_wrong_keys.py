"""Keys of a wrong type in Redis are set aside, and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError

from tasks.messaging.wrong_keys import is_wrong_type, mend_keys, said


class Redis:
    """Keys by their type."""

    def __init__(self, **keys: str) -> None:
        self.keys = keys
        self.asked: list[str] = []
        self.error: Exception | None = None

    def type(self, name: str) -> bytes:
        self.asked.append(name)
        return self.keys.get(name, "none").encode()

    def rename(self, name: str, aside: str) -> None:
        if self.error is not None:
            raise self.error
        self.keys[aside] = self.keys.pop(name)


class Channel:
    global_keyprefix = "ours:"
    priority_steps = (0, 3)
    unacked_key, unacked_index_key, unacked_mutex_key = "unacked", "unacked_index", "unacked_mutex"

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.error: Exception | None = None

    def _q_for_pri(self, queue: str, step: int) -> str:
        return f"{queue}:{step}"

    @contextlib.contextmanager
    def conn_or_acquire(self) -> Iterator[Redis]:
        if self.error is not None:
            raise self.error
        yield self._client


RIGHT = {
    "ours:gpu:0": "list",
    "ours:gpu:3": "list",
    "ours:_kombu.binding.comfyline": "set",
    "ours:_kombu.binding_permanent.comfyline": "set",
    "ours:unacked": "hash",
    "ours:unacked_index": "zset",
    "ours:unacked_mutex": "string",
    "ours:_kombu.binding_deadlines": "zset",
}


def mend(client: Redis) -> None:
    mend_keys(Channel(client), ["gpu"], ["comfyline"])


def test_what_is_right_or_is_not_there_stays() -> None:
    for keys in (RIGHT, {}):
        client = Redis(**keys)
        mend(client)
        assert client.keys == keys
        assert sorted(client.asked) == sorted(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_wrong_is_set_aside_and_said(name: str, caplog: pytest.LogCaptureFixture) -> None:
    client = Redis(**{**RIGHT, name: "stream"})
    mend(client)
    [aside] = set(client.keys) - set(RIGHT)
    assert aside.startswith(f"{name}.set-aside.")
    assert len(aside) == len(f"{name}.set-aside.") + 8
    assert client.keys == {**{key: kind for key, kind in RIGHT.items() if key != name}, aside: "stream"}
    assert f"is a stream and no {RIGHT[name]}" in caplog.text


def test_another_worker_may_be_first(caplog: pytest.LogCaptureFixture) -> None:
    client = Redis(**{**RIGHT, "ours:gpu:0": "string"})
    client.error = ResponseError("no such key")
    mend(client)
    assert caplog.text == ""


@pytest.mark.parametrize("error", [OSError("refused"), NoConnection("away")])
def test_a_server_that_is_away_is_said(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel(Redis())
    channel.error = error
    mend_keys(channel)
    assert "cannot be set aside" in caplog.text


def test_what_the_server_said_is_told_from_the_command() -> None:
    in_pipeline: Any = ResponseError("Command # 1 (LPUSH secret) of pipeline caused error: WRONGTYPE Operation")
    assert said(in_pipeline) == "WRONGTYPE Operation"
    assert is_wrong_type(in_pipeline)
    assert said(ResponseError("READONLY x")) == "READONLY x"
    assert not is_wrong_type(ResponseError("READONLY x"))
