"""What one process knows of keys: it looks twice a second, at once for what is new, and lets in nobody unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.http import key_ring
from api.http.key_ring import LOOK_S, NEW_LOOK_S, USES_S, KeyRing
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.access.keys import Keys
from core.records.access import OPERATOR
from tests.makers import StoppedClock, Stopwatch
from tests.services import make_settings
from tests.waiting import eventually


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    stopwatch = Stopwatch()
    monkeypatch.setattr(key_ring, "time", stopwatch)
    return stopwatch


class Looks:
    """Stands before the keys of a ledger: counts looks, and lets them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.is_away = False
        original = Keys.live

        def live(keys: Keys, known: Any = None) -> Any:
            self.count += 1
            if self.is_away:
                raise LedgerUnavailable("away")
            return original(keys, known)

        monkeypatch.setattr(Keys, "live", live)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def ring_of(ledger: Ledger, folder: Path, *keys: str) -> KeyRing:
    return KeyRing(make_settings(folder, api_keys=keys), ledger.keys)


@pytest.fixture
def ring(ledger: Ledger, tmp_path: Path, watch: Stopwatch) -> KeyRing:
    return ring_of(ledger, tmp_path)


def made(ledger: Ledger, **fields: Any) -> tuple[str, str]:
    key, secret = ledger.keys.create("default", name="x", scopes=("read",), **fields)
    return key.id, secret


class TestOpen:
    def test_without_any_key_it_is(self, ring: KeyRing) -> None:
        assert ring.is_open()
        assert ring.caller("anything", "") is None

    def test_the_first_key_closes_it_for_good(self, ring: KeyRing, ledger: Ledger, watch: Stopwatch) -> None:
        assert ring.is_open()
        key_id, _ = made(ledger)
        watch.sleep(LOOK_S)
        assert not ring.is_open()
        ledger.keys.revoke(key_id)
        watch.sleep(LOOK_S)
        assert not ring.is_open()

    def test_keys_of_the_settings_need_no_ledger(self, ledger: Ledger, tmp_path: Path, looks: Looks) -> None:
        ring = ring_of(ledger, tmp_path, "one-key", "other-key")
        looks.is_away = True
        assert [ring.caller(key, "") for key in ("one-key", "other-key")] == [OPERATOR, OPERATOR]
        assert not ring.is_open()
        assert not ring.was_open()
        assert looks.count == 0

    def test_an_open_one_stays_open_while_the_ledger_is_away(
        self, ring: KeyRing, looks: Looks, watch: Stopwatch
    ) -> None:
        assert ring.is_open()
        looks.is_away = True
        watch.sleep(LOOK_S)
        assert ring.is_open()
        assert ring.is_open()
        assert looks.count == 2, "not each request looks"

    def test_what_was_never_known_is_said_to_be_so(self, ring: KeyRing, looks: Looks) -> None:
        looks.is_away = True
        with pytest.raises(LedgerUnavailable):
            ring.is_open()
        assert ring.was_open()


class TestLooks:
    def test_no_request_looks_within_half_a_second(
        self, ring: KeyRing, ledger: Ledger, looks: Looks, watch: Stopwatch
    ) -> None:
        _, secret = made(ledger)
        for _ in range(10):
            assert ring.caller(secret, "") is not None
            watch.sleep(LOOK_S / 10 - 0.001)
        assert looks.count == 1

    def test_a_revoked_key_is_refused_with_the_next_look(self, ring: KeyRing, ledger: Ledger, watch: Stopwatch) -> None:
        key_id, secret = made(ledger)
        assert ring.caller(secret, "") is not None
        ledger.keys.revoke(key_id)
        watch.sleep(LOOK_S)
        assert ring.caller(secret, "") is None

    def test_one_that_cannot_look_lets_nobody_in(
        self, ring: KeyRing, ledger: Ledger, looks: Looks, watch: Stopwatch
    ) -> None:
        _, secret = made(ledger)
        assert ring.caller(secret, "") is not None
        looks.is_away = True
        watch.sleep(LOOK_S)
        with pytest.raises(LedgerUnavailable):
            ring.caller(secret, "")
        assert not ring.was_open()
        looks.is_away = False
        assert ring.caller(secret, "") is not None

    def test_a_new_key_opens_at_once(self, ring: KeyRing, ledger: Ledger) -> None:
        made(ledger)
        assert not ring.is_open()
        _, secret = made(ledger)
        assert ring.caller(secret, "") is not None

    def test_wrong_secrets_wait_for_their_looks(
        self, ring: KeyRing, ledger: Ledger, looks: Looks, watch: Stopwatch
    ) -> None:
        made(ledger)
        assert not ring.is_open()
        for _ in range(5):
            assert ring.caller("comfyline_wrong", "") is None
        assert sum(watch.slept_s) == pytest.approx(5 * NEW_LOOK_S)
        assert looks.count == 6
        assert ring.caller("no key of ours", "") is None
        assert looks.count == 6


class TestEnds:
    def test_a_key_ends_when_it_says(self, ring: KeyRing, ledger: Ledger, clock: StoppedClock) -> None:
        _, secret = made(ledger, ends_in_s=1)
        assert ring.caller(secret, "") is not None
        clock.pass_ms(1000)
        assert ring.caller(secret, "") is None

    def test_the_old_secret_of_a_rotated_key_ends(self, ring: KeyRing, ledger: Ledger, clock: StoppedClock) -> None:
        key_id, old = made(ledger)
        _, new = ledger.keys.rotate(key_id, keep_s=1)
        assert ring.caller(old, "") is not None
        clock.pass_ms(1000)
        assert ring.caller(old, "") is None
        assert ring.caller(new, "") is not None


def test_who_used_a_key_last_is_written_now_and_then(ring: KeyRing, ledger: Ledger, watch: Stopwatch) -> None:
    key_id, secret = made(ledger)
    ring.caller(secret, "192.0.2.1")
    assert eventually(lambda: ledger.keys.get(key_id).last_used_by == "192.0.2.1")
    ring.caller(secret, "192.0.2.2")
    watch.sleep(USES_S)
    ring.caller(secret, "192.0.2.3")
    assert eventually(lambda: ledger.keys.get(key_id).last_used_by == "192.0.2.3")
