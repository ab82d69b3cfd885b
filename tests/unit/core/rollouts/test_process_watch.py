"""A process that says it is there, hears what a rollout wants of it, and runs its host's command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from core.ledger import Ledger
from core.ledger.database.rollout_tables import processes, rollout_hosts
from core.records.rollout import ANEW, COMMAND_OK, UPGRADE, Renewal
from core.rollouts import process_watch
from core.rollouts.anew import PROGRAM
from core.rollouts.process_watch import ProcessWatch, SelfRenewal
from core.settings import Settings
from tests.waiting import until

Watch = Callable[..., ProcessWatch]


@pytest.fixture
def heard() -> list[Renewal | None]:
    return []


@pytest.fixture
def watch(
    sqlite_settings: Settings, ledger: Ledger, heard: list[Renewal | None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watch]:
    """Starts a watch of an io worker `io`, which looks without a pause."""
    monkeypatch.setattr(process_watch, "LOOK_S", 0.02)
    started: list[ProcessWatch] = []

    def start(command: str = "") -> ProcessWatch:
        settings = sqlite_settings.model_copy(update={"upgrade_command": command, "host": "here"})
        started.append(ProcessWatch(settings, ledger, "io", follow=heard.append, process_id="io"))
        started[-1].start()
        until(lambda: heard, what="a look")
        return started[-1]

    yield start
    for each in started:
        each.close()


def row(ledger: Ledger) -> dict[str, object] | None:
    with ledger.database.read() as connection:
        found = connection.execute(processes.select()).one_or_none()
    return None if found is None else dict(found._mapping)


def want(ledger: Ledger, renewal: Renewal | None) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(processes).values(renewal=renewal))


def test_it_says_what_it_is_and_goes_when_it_ends(watch: Watch, ledger: Ledger) -> None:
    found = watch("upgrade")
    said = row(ledger)
    assert said is not None
    assert (said["role"], said["host"], said["program"], said["can_upgrade"]) == ("io", "here", PROGRAM, True)
    found.close()
    assert row(ledger) is None


def test_it_hears_what_is_wanted_and_that_it_is_not_any_more(
    watch: Watch, ledger: Ledger, heard: list[Renewal | None]
) -> None:
    watch()
    assert set(heard) == {None}
    want(ledger, ANEW)
    until(lambda: heard[-1] == ANEW, what="the wish")
    want(ledger, None)
    until(lambda: heard[-1] is None, what="its end")


def test_the_command_of_its_host_is_run_once_and_told_of(watch: Watch, ledger: Ledger, tmp_path: Path) -> None:
    script = tmp_path / "bring.py"
    script.write_text(
        "import os, pathlib\n"
        f"with pathlib.Path({str(tmp_path / 'ran')!r}).open('a') as file:\n"
        "    print(os.environ['UPGRADE_VERSION'], [name for name in os.environ if 'COMFYLINE' in name], file=file)\n"
    )
    watch(f"{sys.executable} {script}")
    begin_upgrade(ledger)
    until(lambda: command_of(ledger) == COMMAND_OK, what="the end of the command")
    assert (tmp_path / "ran").read_text() == "2.0 []\n"


def test_one_that_fails_is_told_of_with_its_last_words(watch: Watch, ledger: Ledger, tmp_path: Path) -> None:
    script = tmp_path / "bring.py"
    script.write_text("raise SystemExit('no such version')")
    watch(f"{sys.executable} {script}")
    begin_upgrade(ledger)
    until(lambda: command_of(ledger), what="the end of the command")
    assert command_of(ledger) == "COMFYLINE_UPGRADE_COMMAND ended with status 1: 'no such version'."


def begin_upgrade(ledger: Ledger) -> None:
    order = {"version": "2.0", "hosts": [], "at_once": 1, "timeout_s": 30.0, "max_failures": 1.0, "watch_s": 0.0}
    ledger.rollouts.begin("upgrade", **order, by=None)  # type: ignore[arg-type]
    for _ in range(2):
        ledger.rollouts.advance()


def command_of(ledger: Ledger) -> str | None:
    with ledger.database.read() as connection:
        found: str | None = connection.execute(rollout_hosts.select()).one().command
    return found


def test_a_process_ends_itself_once_when_a_rollout_wants_so(
    ledger: Ledger, sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_watch, "LOOK_S", 0.02)
    ended: list[int] = []
    anew: list[bool] = []
    monkeypatch.setattr(process_watch, "start_anew", lambda: anew.append(True))
    before = signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    renewal = SelfRenewal(sqlite_settings, ledger, "beat")
    try:
        until(lambda: row(ledger), what="its row")
        renewal.start_anew_if_due()
        assert anew == []
        want(ledger, UPGRADE)
        want(ledger, ANEW)
        until(lambda: ended, what="the signal")
        renewal.start_anew_if_due()
    finally:
        renewal.close()
        signal.signal(signal.SIGTERM, before)
    assert (ended, anew) == ([signal.SIGTERM], [True])
    assert os.getpid() > 0
