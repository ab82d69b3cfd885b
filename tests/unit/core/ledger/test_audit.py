"""The book of acts: written with the act or not at all, told from the newest, and forgotten in time."""

from __future__ import annotations

import getpass

import pytest

from core.errors import NotFound
from core.ledger import Ledger
from core.records.act import Act, Actor
from tests.makers import StoppedClock

BOSS = Actor(who="boss", tenant="default", address="10.0.0.1")
DAY_S = 24 * 3600.0


def acts(ledger: Ledger) -> list[tuple[str, str]]:
    return [(act.act, act.subject) for act in ledger.audit.page()]


def test_an_act_says_who_when_and_on_what(ledger: Ledger, clock: StoppedClock) -> None:
    ledger.audit.note("gpu.drain", "gpu0@a", BOSS, why="dust")
    assert ledger.audit.page() == [
        Act(id=1, at_ms=clock.now_ms, by=BOSS, act="gpu.drain", subject="gpu0@a", details={"why": "dust"})
    ]


def test_without_a_client_it_is_the_user_of_the_process(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    [act] = ledger.audit.page()
    assert act.by.who.partition("@")[0] == getpass.getuser()
    assert (act.by.key_id, act.by.tenant, act.by.address) == (None, None, None)


def test_a_key_goes_by_its_name(ledger: Ledger) -> None:
    key, _ = ledger.keys.create("default", name="ci", scopes=("admin",))
    ledger.tenants.create("acme", by=Actor(key_id=key.id, tenant="default"))
    assert ledger.audit.page(key_id=key.id)[0].by.who == "ci"


def test_what_comes_to_nothing_is_not_in_it(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.keys.create("nobody", name="x", scopes=("read",))
    with pytest.raises(NotFound):
        ledger.tenants.weigh("nobody", 2.0)
    with pytest.raises(NotFound):
        ledger.model_tokens.remove("nothing")
    with pytest.raises(NotFound):
        ledger.manifest.remove("nothing")
    assert not ledger.removal.delete_job("nothing")
    assert acts(ledger) == []


def test_words_that_are_too_long_are_cut(ledger: Ledger) -> None:
    ledger.audit.note("model.put", "x" * 1000, Actor(who="y" * 1000, address="z" * 1000))
    [act] = ledger.audit.page()
    assert (len(act.subject), len(act.by.who), len(act.by.address or "")) == (255, 255, 64)


def test_a_start_tells_what_has_changed_since_the_last_one_of_its_process(ledger: Ledger) -> None:
    ledger.audit.note_start("api@a", {"COMFYLINE_API_PORT": "1"})
    ledger.audit.note_start("io@a", {})
    ledger.audit.note_start("api@a", {"COMFYLINE_API_PORT": "2", "COMFYLINE_HOST": "a"})
    newest, other, first = ledger.audit.page()
    assert first.details == {"settings": {"COMFYLINE_API_PORT": "1"}}
    assert other.details == {"settings": {}}
    assert newest.details["changed"] == {"COMFYLINE_API_PORT": ["1", "2"], "COMFYLINE_HOST": [None, "a"]}


def test_lines_go_in_time_the_oldest_first(ledger: Ledger, clock: StoppedClock) -> None:
    for number in range(4):
        ledger.audit.note("gpu.drain", f"gpu{number}")
        clock.pass_ms(int(DAY_S * 1000))
    assert ledger.audit.forget(older_than_s=2 * DAY_S, limit=1) == 1
    assert ledger.audit.forget(older_than_s=2 * DAY_S) == 1
    assert acts(ledger) == [("gpu.drain", "gpu3"), ("gpu.drain", "gpu2")]
