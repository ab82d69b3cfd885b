"""Files of users: kept apart by tenant, found by folder, never written over by accident, and not without end."""

from __future__ import annotations

import pytest

from core.errors import AlreadyExists, BodyTooLarge, LimitReached, NotFound
from core.ledger import Ledger, user_files
from tests.makers import StoppedClock


def paths(ledger: Ledger, folder: str = "", tenant: str = "a") -> list[str]:
    return [file.path for file in ledger.user_files.below(folder, tenant=tenant)]


def test_what_is_written_is_read_again(ledger: Ledger, clock: StoppedClock) -> None:
    made = ledger.user_files.write("workflows/x.json", b"{}" * 500, tenant="a")
    clock.pass_ms(5)
    changed = ledger.user_files.write("workflows/x.json", b"[]", tenant="a")
    assert ledger.user_files.read("workflows/x.json", tenant="a") == b"[]"
    assert (made.size_bytes, changed.size_bytes) == (1000, 2)
    assert changed.created_at_ms == made.created_at_ms == made.modified_at_ms == changed.modified_at_ms - 5


def test_a_tenant_has_its_own(ledger: Ledger) -> None:
    ledger.user_files.write("x", b"a's", tenant="a")
    ledger.user_files.write("x", b"b's", tenant="b")
    ledger.user_files.remove("x", tenant="a")
    assert (paths(ledger), paths(ledger, tenant="b")) == ([], ["x"])
    with pytest.raises(NotFound):
        ledger.user_files.read("x", tenant="a")
    with pytest.raises(NotFound):
        ledger.user_files.remove("x", tenant="a")


def test_a_folder_is_no_pattern_and_no_beginning_of_a_name(ledger: Ledger) -> None:
    for path in ("a%/x", "a_/x", "ab/x", "a%/in/y", "a%0", "A%/x"):
        ledger.user_files.write(path, b"", tenant="a")
    assert paths(ledger, "a%") == ["a%/in/y", "a%/x"]
    assert paths(ledger, "a_") == ["a_/x"]
    assert len(paths(ledger)) == 6


def test_nothing_is_written_over_that_is_not_to_be(ledger: Ledger) -> None:
    ledger.user_files.write("x", b"1", tenant="a")
    ledger.user_files.write("y", b"2", tenant="a")
    with pytest.raises(AlreadyExists):
        ledger.user_files.write("x", b"3", tenant="a", overwrite=False)
    with pytest.raises(AlreadyExists):
        ledger.user_files.move("x", "y", tenant="a", overwrite=False)
    assert ledger.user_files.read("x", tenant="a") == b"1"
    assert ledger.user_files.move("x", "y", tenant="a").path == "y"
    assert paths(ledger) == ["y"]
    assert ledger.user_files.read("y", tenant="a") == b"1"
    assert ledger.user_files.move("y", "y", tenant="a").path == "y"
    with pytest.raises(NotFound):
        ledger.user_files.move("x", "z", tenant="a")


def test_a_change_knows_what_was_there(ledger: Ledger) -> None:
    ledger.user_files.change("n", lambda before: (before or b"") + b"1", tenant="a")
    ledger.user_files.change("n", lambda before: (before or b"") + b"2", tenant="a")
    assert ledger.user_files.read("n", tenant="a") == b"12"


def test_there_is_an_end_to_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "MAX_FILES", 2)
    monkeypatch.setattr(user_files, "MAX_BYTES", 10)
    monkeypatch.setattr(user_files, "MAX_FILE_BYTES", 8)
    with pytest.raises(BodyTooLarge):
        ledger.user_files.write("x", b"123456789", tenant="a")
    ledger.user_files.write("x", b"12345678", tenant="a")
    with pytest.raises(LimitReached):
        ledger.user_files.write("y", b"123", tenant="a")
    # What takes another's place counts for what it is more.
    ledger.user_files.write("x", b"1234567", tenant="a")
    ledger.user_files.write("y", b"123", tenant="a")
    with pytest.raises(LimitReached):
        ledger.user_files.write("z", b"", tenant="a")
    ledger.user_files.write("z", b"", tenant="b")
