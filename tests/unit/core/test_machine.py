"""What tells one machine from another."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core import machine


def test_processes_of_one_loopback_share_an_id() -> None:
    boot, _, namespace = machine.loopback_id().partition(":")

    assert boot == machine.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(namespace) == Path("/proc/self/ns/net").stat().st_ino


def test_where_that_is_hidden_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)

    assert (machine.boot_id(), machine.loopback_id()) == ("", "")


def test_time_since_the_boot_passes() -> None:
    assert machine.seconds_since_boot() >= time.monotonic() - 1
