"""Files that came in: found by id, bytes and name, forgotten, and their bytes kept while anybody needs them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.database.tables import uploads
from core.ledger.input_files import InputFile
from core.records.job import InputRef
from tests.ledger_moves import submit
from tests.makers import StoppedClock


def make(file_id: str, **fields: Any) -> InputFile:
    values: dict[str, Any] = {"hash": "blake3:h", "name": "n.png", "content_type": "image/png", "size_bytes": 3}
    values |= {"storage_key": "k", "created_at_ms": 1, "expires_at_ms": 10**15}
    return InputFile(id=file_id, **{**values, **fields})


def kept(ledger: Ledger) -> list[str]:
    with ledger.database.read() as connection:
        return list(connection.execute(select(uploads.c.id).order_by(uploads.c.id)).scalars())


class TestLookUp:
    def test_as_it_was_recorded(self, ledger: Ledger) -> None:
        one, other = make("a", job_id="j"), make("b")
        ledger.input_files.add(one, other)
        ledger.input_files.add()
        assert (ledger.input_files.get("a"), ledger.input_files.get("b")) == (one, other)
        with pytest.raises(NotFound, match="no asset x"):
            ledger.input_files.get("x")

    def test_until_it_expires(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.input_files.add(make("a", expires_at_ms=clock.now_ms + 1))
        assert ledger.input_files.by_hash("blake3:h") == ledger.input_files.named(["n.png"])["n.png"]
        assert ledger.input_files.get("a").id == "a"
        clock.pass_ms(1)
        with pytest.raises(NotFound):
            ledger.input_files.get("a")
        assert ledger.input_files.by_hash("blake3:h") is None
        assert ledger.input_files.named(["n.png"]) == {}

    def test_by_its_bytes_the_one_that_stays_longest(self, ledger: Ledger) -> None:
        ledger.input_files.add(make("a", expires_at_ms=10**14), make("b"), make("c", hash="blake3:i"))
        found = ledger.input_files.by_hash("blake3:h")
        assert found is not None
        assert found.id == "b"
        assert ledger.input_files.by_hash("blake3:x") is None

    def test_by_name_the_oldest_that_a_client_uploaded(self, ledger: Ledger) -> None:
        ledger.input_files.add(
            make("d", created_at_ms=5),
            make("c", created_at_ms=4),
            make("b", created_at_ms=4),
            make("a", created_at_ms=3, job_id="j"),
            make("e", name="other"),
            make("f", name="third"),
        )
        found = ledger.input_files.named(["n.png", "other", "none"])
        assert {name: file.id for name, file in found.items()} == {"n.png": "b", "other": "e"}

    def test_under_another_name(self, ledger: Ledger) -> None:
        ledger.input_files.add(make("a"), make("b"))
        ledger.input_files.rename("a", "new")
        assert (ledger.input_files.get("a").name, ledger.input_files.get("b").name) == ("new", "n.png")


class TestRemoval:
    def test_it_expires_at_once(self, ledger: Ledger) -> None:
        ledger.input_files.add(make("a"), make("b"))
        ledger.input_files.remove("a")
        assert kept(ledger) == ["a", "b"]
        with pytest.raises(NotFound, match="no asset a"):
            ledger.input_files.remove("a")
        assert ledger.input_files.get("b").id == "b"

    def test_one_that_has_expired_is_there_no_more(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.input_files.add(make("a", expires_at_ms=clock.now_ms))
        with pytest.raises(NotFound):
            ledger.input_files.remove("a")

    def test_the_bytes_go_with_the_last_that_shares_them(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.input_files.add(
            make("a", expires_at_ms=clock.now_ms),
            make("b", expires_at_ms=clock.now_ms + 1),
            make("c", expires_at_ms=clock.now_ms, storage_key="k3"),
            make("d", expires_at_ms=clock.now_ms, storage_key="k2"),
        )
        assert ledger.input_files.remove_expired() == ["k2", "k3"]
        assert kept(ledger) == ["b"]
        assert ledger.input_files.remove_expired() == []
        clock.pass_ms(1)
        assert ledger.input_files.remove_expired() == ["k"]
        assert kept(ledger) == []

    def test_not_too_many(self, ledger: Ledger) -> None:
        ledger.input_files.add(*(make(str(number), expires_at_ms=1) for number in range(3)))
        assert ledger.input_files.remove_expired(limit=2) == []
        assert len(kept(ledger)) == 1

    def test_a_thousand_where_nobody_says(self, ledger: Ledger) -> None:
        ledger.input_files.add(*(make(str(number), expires_at_ms=1) for number in range(1001)))
        ledger.input_files.remove_expired()
        assert len(kept(ledger)) == 1

    def test_what_an_open_job_needs_is_kept_until_it_has_ended(self, ledger: Ledger) -> None:
        job = submit(ledger, inputs=(InputRef(name="x", key="k"),))
        ledger.input_files.add(make("a", expires_at_ms=1), make("b", expires_at_ms=1, storage_key="k2"))
        assert ledger.input_files.remove_expired() == ["k2"]
        assert kept(ledger) == ["a"]
        ledger.jobs.cancel(job.id)
        assert ledger.input_files.remove_expired() == ["k"]


def test_keys_that_nothing_refers_to(ledger: Ledger) -> None:
    ended = submit(ledger, inputs=(InputRef(name="x", key="of one that ended"),))
    ledger.jobs.cancel(ended.id)
    submit(ledger, inputs=(InputRef(name="x", key="needed"), InputRef(name="y", key="not asked for")))
    ledger.input_files.add(make("a", storage_key="recorded", expires_at_ms=1))
    assert ledger.input_files.unknown(["needed", "recorded", "of one that ended", "x"]) == {"of one that ended", "x"}
