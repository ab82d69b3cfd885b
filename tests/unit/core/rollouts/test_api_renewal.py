"""The API in a rollout: a worker has the first process end, once, and that one starts anew."""

from __future__ import annotations

import os
import signal

import pytest

from core.records.rollout import ANEW, DRAIN
from core.rollouts import api_renewal
from core.rollouts.api_renewal import API, ApiRenewal


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: found.append((pid, number)))
    return found


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    monkeypatch.setattr(api_renewal, "start_anew", found.append)
    return found


def test_a_worker_of_an_armed_one_has_it_end_once(
    killed: list[tuple[int, int]], anew: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    renewal = ApiRenewal()
    renewal.arm()
    renewal.start_anew_if_due()
    assert anew == [], "it was told to end by somebody else"
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert renewal.is_armed
    for wanted in (None, DRAIN, ANEW, ANEW):
        renewal.follow(wanted)
    assert killed == [(os.getpid(), signal.SIGTERM)]
    renewal.start_anew_if_due()
    assert anew == [API]


def test_without_our_command_nobody_can_renew_it(killed: list[tuple[int, int]], anew: list[object]) -> None:
    renewal = ApiRenewal()
    assert not renewal.is_armed
    renewal.follow(ANEW)
    renewal.start_anew_if_due()
    assert (killed, anew) == ([], [])


def test_a_child_of_another_process_is_not_its_worker() -> None:
    renewal = ApiRenewal()
    renewal.arm()
    assert not renewal.is_armed
