"""What pools needed is kept, and a command and a URL are told when a pool wants another number of GPUs."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from core.clock import now_ms
from core.ledger.metrics.pool_needs import NEEDS
from core.ledger.scheduling.scaling_reader import HISTORY
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.reconciling import telling
from tasks.reconciling.pool_watch import TOLD, watch_pools
from tasks.runtime import Runtime, equip
from tests.ledger_moves import register, submit
from tests.receivers import Answer, Receiver, receiving
from tests.waiting import eventually, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
POOLS = (("-", 0, 5),)
Make = Callable[..., Runtime]


@pytest.fixture
def make(sqlite_settings: Settings) -> Iterator[Make]:
    made: list[Runtime] = []

    def new(**fields: Any) -> Runtime:
        settings = sqlite_settings.model_copy(update={"autoscale_pools": POOLS, **fields})
        made.append(equip(make_app(settings, "io"), settings))
        return made[-1]

    yield new
    for runtime in made:
        runtime.close()


def writes_to(file: Path, *, then: str = "") -> str:
    """A command that appends what it is told to a file, with the names in its environment."""
    code = (
        "import os, sys; said = sys.stdin.read(); "
        f"open({str(file)!r}, 'a').write(said + '\\n' + ' '.join(os.environ) + '\\n'); {then}"
    )
    return shlex.join([sys.executable, "-c", code])


def _was_told(file: Path, times: int) -> bool:
    return file.exists() and file.read_text().count("pools.wanted") >= times


def told(runtime: Runtime) -> dict[str, int]:
    found: dict[str, int] = json.loads(runtime.ledger.facts.get(TOLD) or "{}")
    return found


def test_where_nothing_is_scaled_metrics_alone_are_told_and_not_at_each_look(make: Make) -> None:
    runtime = make(autoscale_pools=())
    register(runtime.ledger, "gpu0@here")
    submit(runtime.ledger, expected_time_s=50.0)
    watch_pools(runtime)
    assert runtime.ledger.facts.get(HISTORY) is None
    [pool] = runtime.ledger.fleet_state.read().pools
    assert (pool.pool, pool.run_s, pool.replicas_wanted) == ("-", 50.0, 1)
    submit(runtime.ledger, expected_time_s=50.0)
    watch_pools(runtime)
    assert runtime.ledger.fleet_state.read().pools == [pool]


@pytest.mark.parametrize(
    "noted", ["rubbish", "[]", '{"at_ms": 1}', '{"at_ms": %d, "pools": [{"of": "another version"}]}']
)
def test_what_was_noted_otherwise_or_long_ago_is_not_told(make: Make, noted: str) -> None:
    runtime = make()
    watch_pools(runtime)
    assert [pool.pool for pool in runtime.ledger.fleet_state.read().pools] == ["-"]
    runtime.ledger.facts.mark(NEEDS, noted.replace("%d", str(now_ms())))
    assert runtime.ledger.fleet_state.read().pools == []


def test_needs_are_noted(make: Make) -> None:
    runtime = make()
    submit(runtime.ledger, expected_time_s=50.0)
    watch_pools(runtime)
    history = runtime.ledger.scaling.histories()["-"]
    assert list(history.peaks.values()) == [1]
    assert told(runtime) == {}, "nobody is to be told"


def test_a_command_is_told_once_for_each_change(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_TEST_SECRET", "x")
    monkeypatch.setenv("COMFY_API_KEY", "for-the-command")
    file = tmp_path / "said"
    runtime = make(autoscale_command=writes_to(file))
    watch_pools(runtime)
    assert eventually(lambda: told(runtime) == {"-": 0})
    watch_pools(runtime)
    for _ in range(3):
        submit(runtime.ledger, expected_time_s=50.0)
    watch_pools(runtime)
    assert eventually(lambda: told(runtime) == {"-": 3})
    watch_pools(runtime)
    time.sleep(0.2)

    lines = file.read_text().splitlines()
    first, second = (json.loads(line) for line in lines[::2])
    assert first["type"] == second["type"] == "pools.wanted"
    assert (first["pools"][0]["gpus_wanted"], first["pools"][0]["before"]) == (0, None)
    [pool] = second["pools"]
    assert (pool["pool"], pool["gpus_wanted"], pool["replicas_wanted"], pool["gpus_here"]) == ("-", 3, 3, 0)
    assert pool["before"] == 0
    assert "3 jobs wait" in pool["reason"]
    names = lines[1].split()
    assert "COMFY_API_KEY" in names
    assert not [name for name in names if name.startswith("COMFYLINE_")]


def test_one_that_fails_is_told_again_and_the_log_says_so_once(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "said"
    runtime = make(autoscale_command=writes_to(file, then="sys.exit('no quota')"))
    for number in range(1, 4):
        watch_pools(runtime)
        until(functools.partial(_was_told, file, number), what=f"try {number}")
        time.sleep(0.2)
    assert told(runtime) == {}
    said = [record.message for record in caplog.records if "COMFYLINE_AUTOSCALE_COMMAND" in record.message]
    assert said == ["COMFYLINE_AUTOSCALE_COMMAND ended with status 1: 'no quota'. Tried again until it succeeds."]


@pytest.mark.parametrize("command", ["/no/such/program", "sleep 30"])
def test_nobody_waits_for_a_command(
    make: Make, command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "COMMAND_S", 2.0)
    runtime = make(autoscale_command=command)
    began_s = time.monotonic()
    for _ in range(3):
        watch_pools(runtime)
    assert time.monotonic() - began_s < 2.0
    until(lambda: "COMFYLINE_AUTOSCALE_COMMAND" in caplog.text, what="a line about it")
    assert told(runtime) == {}


@pytest.fixture
def answers() -> list[int]:
    return [503, 200]


@pytest.fixture
def receiver(answers: list[int]) -> Iterator[Receiver]:
    def behave(_received: object) -> Answer:
        return (answers.pop(0) if answers else 200, {}, [])

    with receiving(behave) as found:
        yield found


def test_a_url_is_told_and_what_it_gets_is_signed(
    make: Make, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = make(
        autoscale_webhook_url=f"{receiver.url}/pools?key=private", autoscale_webhook_secret=SecretStr(SECRET)
    )
    watch_pools(runtime)
    assert eventually(lambda: "answered 503" in caplog.text)
    assert told(runtime) == {}
    watch_pools(runtime)
    assert eventually(lambda: told(runtime) == {"-": 0})

    assert len(receiver.received) == 2
    last = receiver.received[-1]
    assert last.path == "/pools?key=private"
    assert last.headers["x-webhook-event"] == "pools.wanted"
    assert Webhook(SECRET).verify(last.content, last.headers)["type"] == "pools.wanted"
    assert "private" not in caplog.text


def test_a_receiver_that_is_away_holds_nobody_up(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    runtime = make(autoscale_webhook_url="http://127.0.0.1:9/pools?key=private")
    watch_pools(runtime)
    assert eventually(lambda: "took no post" in caplog.text)
    assert "private" not in caplog.text
    assert told(runtime) == {}


def test_a_text_of_another_version_is_told_anew(make: Make, tmp_path: Path) -> None:
    runtime = make(autoscale_command=writes_to(tmp_path / "said"))
    runtime.ledger.facts.mark(TOLD, "[1]")
    watch_pools(runtime)
    assert eventually(lambda: told(runtime) == {"-": 0})
