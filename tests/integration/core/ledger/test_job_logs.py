"""What ComfyUI printed, as the ledger keeps it: its job's in all, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.log_tables import job_logs
from core.records.job import new_job_id
from core.records.printed import PrintedPiece
from tests.ledger_moves import ERROR, claimed, register, set_columns, submit


def piece(claim: Claim, place: int, *lines: str, **fields: int) -> PrintedPiece:
    attempt = fields.pop("attempt", claim.attempt)
    flags = {name: bool(value) for name, value in fields.items() if name.startswith("is_")}
    rest = {name: value for name, value in fields.items() if name not in flags}
    return PrintedPiece(job_id=claim.job_id, attempt=attempt, place=place, lines=lines, **flags, **rest)  # type: ignore[arg-type]


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    register(ledger, "gpu0@here", {})
    return claimed(ledger)


def test_pieces_come_back_in_their_order_and_from_where_they_are_wanted(ledger: Ledger, claim: Claim) -> None:
    assert ledger.job_logs.read(claim.job_id) is None
    numbers = ledger.job_logs.add([piece(claim, 1, "a", "b")])
    ledger.job_logs.add([piece(claim, 2, "c")])
    newest = ledger.job_logs.add([piece(claim, 3, "d", is_last=1)])

    found = ledger.job_logs.read(claim.job_id)
    assert found is not None
    assert found.lines == ("a", "b", "c", "d")
    assert (found.is_cut, found.is_whole, found.number) == (False, True, newest[claim.job_id])
    rest = ledger.job_logs.read(claim.job_id, after=numbers[claim.job_id])
    assert rest is not None
    assert rest.lines == ("c", "d")
    assert ledger.job_logs.read(claim.job_id, after=newest[claim.job_id]) is None


def test_what_is_too_much_goes_and_is_said(ledger: Ledger, claim: Claim) -> None:
    for place in range(1, 4):
        ledger.job_logs.add([piece(claim, place, str(place))])
    ledger.job_logs.add([piece(claim, 4, "4", drop_until=2, is_cut=1)])
    found = ledger.job_logs.read(claim.job_id)
    assert found is not None
    assert found.lines == ("3", "4")
    assert found.is_cut


def test_of_attempts_before_the_last_one_stays(ledger: Ledger, claim: Claim) -> None:
    for attempt in (1, 2, 3):
        ledger.job_logs.add([piece(claim, 1, f"attempt {attempt}", attempt=attempt, is_last=1)])
    found = ledger.job_logs.read(claim.job_id)
    assert found is not None
    assert found.lines == ("attempt 2", "attempt 3")
    assert not found.is_whole, "the job is in its first attempt"
    set_columns(ledger, claim.job_id, attempt=3)
    again = ledger.job_logs.read(claim.job_id)
    assert again is not None
    assert again.is_whole


def test_it_is_its_tenants(ledger: Ledger, claim: Claim) -> None:
    ledger.job_logs.add([piece(claim, 1, "a")])
    assert ledger.job_logs.read(claim.job_id, of=claim.tenant) is not None
    with pytest.raises(NotFound):
        ledger.job_logs.read(claim.job_id, of="other")
    with pytest.raises(NotFound):
        ledger.job_logs.read(new_job_id())


def test_it_goes_with_its_job_and_what_comes_later_is_dropped(ledger: Ledger, claim: Claim) -> None:
    other = submit(ledger)
    assert ledger.claims.fail(claim, error=ERROR)
    ledger.job_logs.add([piece(claim, 1, "a")])
    assert ledger.removal.delete_job(claim.job_id)
    with ledger.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(job_logs)).scalar() == 0
    left = PrintedPiece(job_id=other.id, attempt=1, place=1, lines=("b",))
    assert ledger.job_logs.add([piece(claim, 2, "late"), left]).keys() == {other.id}
