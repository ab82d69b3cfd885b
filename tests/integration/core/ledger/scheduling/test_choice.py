"""Claims of GPUs that would load, where many of them choose at the same moment."""

from __future__ import annotations

from contextlib import closing

from sqlalchemy import func, select

from core.ledger import Ledger
from core.metrics.counted import LEDGER_FAILURES
from core.metrics.tally import process_tally, sample_of
from core.settings import Settings
from tests.ledger_moves import register, submit

GPU = "gpu0@here"


def test_where_others_choose_what_to_load_for_long_there_is_nothing_and_the_ledger_is_there(
    postgres_settings: Settings,
) -> None:
    with closing(Ledger(postgres_settings)) as ledger:
        others_choose(ledger)


def others_choose(ledger: Ledger) -> None:
    register(ledger, GPU)
    job = submit(ledger, models=("sdxl.safetensors",))
    process_tally.take()
    with ledger.database.engine.connect() as other:
        other.execute(select(func.pg_advisory_xact_lock(0x10AD)))

        assert ledger.claims.claim(GPU) is None

        other.rollback()
    assert sample_of(LEDGER_FAILURES, "", ()) not in process_tally.take()
    claim = ledger.claims.claim(GPU)
    assert claim is not None
    assert claim.job_id == job.id
