"""Jobs of an earlier version on SQLite and on PostgreSQL: put in the line of their models, or led there."""

from __future__ import annotations

from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import lines
from tests.ledger_moves import claimed, set_columns, submit

FILES = ("sdxl.safetensors", "vae.pt")


def _counts(ledger: Ledger) -> dict[tuple[str, ...], int]:
    with ledger.database.read() as connection:
        rows = connection.execute(select(lines.c.files, lines.c.waiting).where(lines.c.waiting != 0)).all()
    return {tuple(row.files): row.waiting for row in rows}


def test_jobs_in_lines_without_models_are_found_page_by_page_and_led(ledger: Ledger) -> None:
    waiting = sorted(submit(ledger).id for _ in range(3))
    submit(ledger, models=FILES)
    claimed(ledger)
    mender = ledger.line_mender

    assert mender.without_models(after="", limit=2) == waiting[:2]
    assert mender.without_models(after=waiting[1], limit=2) == waiting[2:]
    assert mender.lead({waiting[0]: FILES, waiting[2]: ("other.sft",), "gone": FILES}) == 2
    assert mender.without_models(after="", limit=9) == [waiting[1]]
    assert _counts(ledger) == {(): 1, FILES: 2, ("other.sft",): 1}
    assert mender.mend() == 0, "every line counts its jobs"


def test_a_job_in_no_line_comes_into_that_of_its_models(ledger: Ledger) -> None:
    job = submit(ledger)
    set_columns(ledger, job.id, line=None)

    assert ledger.line_mender.mend(lambda job_ids: dict.fromkeys(job_ids, FILES)) == 2
    assert _counts(ledger) == {FILES: 1}
