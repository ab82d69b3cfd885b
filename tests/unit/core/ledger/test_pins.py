"""Pins of waiting jobs: read, changed, and the end of a job that nothing can run."""

from __future__ import annotations

from core.ledger import Ledger
from core.ledger.pins import Pinned, PinnedGraph
from core.records.job import FAILED, QUEUED, InputRef
from tests.ledger_moves import ERROR, claimed, submit


def pinned(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """The pins of every waiting job that has some."""
    return {found.job_id: found.catalogues for found in ledger.pins.waiting(after="", limit=99)}


def test_jobs_with_pins_are_read_page_by_page(ledger: Ledger) -> None:
    submit(ledger)
    claimed(ledger, catalogues=None)
    jobs = sorted(submit(ledger, catalogues=("a", "b")).id for _ in range(3))
    assert ledger.pins.waiting(after="", limit=2) == [
        Pinned(job_id=job_id, catalogues=("a", "b")) for job_id in jobs[:2]
    ]
    assert [found.job_id for found in ledger.pins.waiting(after=jobs[1], limit=2)] == jobs[2:]


def test_one_that_runs_is_not_waiting(ledger: Ledger) -> None:
    job = submit(ledger, catalogues=("a",))
    ledger.requeue.expire_waiting(timeout_s=-1)
    assert ledger.jobs.get(job.id).status != QUEUED
    assert pinned(ledger) == {}


def test_what_a_job_is_judged_by(ledger: Ledger) -> None:
    plain = submit(ledger, graph_text='{"1":{}}')
    inputs = (InputRef(name="a.png", key="k"), InputRef(name="b.png", key="k"))
    with_files = submit(ledger, inputs=inputs)
    graphs = ledger.pins.graphs([plain.id, with_files.id, "gone"])
    assert graphs == {
        plain.id: PinnedGraph(graph='{"1":{}}'),
        with_files.id: PinnedGraph(graph='{"1":{}}', inputs=inputs),
    }
    assert graphs[plain.id].staged_files == frozenset()
    assert graphs[with_files.id].staged_files == {"a.png", "b.png"}


def test_pins_change_for_those_that_are_as_they_were(ledger: Ledger) -> None:
    fewer, none, another = (submit(ledger, catalogues=("a", "b")).id for _ in range(3))
    stale = Pinned(job_id=another, catalogues=("a",))
    changes = {
        Pinned(job_id=job_id, catalogues=("a", "b")): pins for job_id, pins in ((fewer, ["b", "c"]), (none, None))
    }
    ledger.pins.change({**changes, stale: ["z"]})
    assert pinned(ledger) == {fewer: ("b", "c"), another: ("a", "b")}


def test_several_are_changed_alike(ledger: Ledger) -> None:
    jobs = [submit(ledger, catalogues=("a",)).id for _ in range(3)]
    ledger.pins.change({Pinned(job_id=job_id, catalogues=("a",)): ["b"] for job_id in jobs})
    assert pinned(ledger) == dict.fromkeys(jobs, ("b",))


def test_one_that_waits_no_more_keeps_its_pins(ledger: Ledger) -> None:
    job = submit(ledger, catalogues=("a",))
    ledger.jobs.cancel(job.id)
    found = Pinned(job_id=job.id, catalogues=("a",))
    ledger.pins.change({found: None})
    assert not ledger.pins.fail(found, ERROR)
    with ledger.database.read() as connection:
        assert connection.exec_driver_sql("SELECT catalogues FROM jobs").scalar_one() == "a"


def test_a_running_job_is_pinned_for_when_it_waits_again(ledger: Ledger) -> None:
    claim = claimed(ledger)
    assert ledger.pins.pin(claim, ["a", "b"])
    ledger.requeue.release(claim, reason="elsewhere", lost=False)
    assert pinned(ledger) == {claim.job_id: ("a", "b")}
    assert not ledger.pins.pin(claim, ["c"]), "the attempt is stale"
    assert pinned(ledger) == {claim.job_id: ("a", "b")}


def test_one_that_nothing_can_run_ends(ledger: Ledger) -> None:
    job = submit(ledger, catalogues=("a", "b"))
    assert not ledger.pins.fail(Pinned(job_id=job.id, catalogues=("a",)), ERROR), "it has other pins by now"
    assert ledger.pins.fail(Pinned(job_id=job.id, catalogues=("a", "b")), ERROR)
    found = ledger.jobs.get(job.id)
    assert (found.status, found.error) == (FAILED, ERROR)
