"""Jobs by their places: the newest first, of one tenant, without what was hidden."""

from __future__ import annotations

import json

from core.ledger import Ledger
from core.records.job import CANCELED, QUEUED, Status
from tests.ledger_moves import submit
from tests.makers import StoppedClock

WAITING: tuple[Status, ...] = (QUEUED,)


def some(ledger: Ledger, clock: StoppedClock, count: int = 5, **fields: object) -> list[str]:
    ids = []
    for _ in range(count):
        ids.append(submit(ledger, **fields).id)
        clock.pass_ms(10)
    return ids


def shown(ledger: Ledger, statuses: tuple[Status, ...] = WAITING, **wanted: object) -> list[str]:
    found = ledger.job_pages.page(**{"of": "default", "statuses": statuses, "limit": 10, **wanted})  # type: ignore[arg-type]
    return [job.id for job in found]


def test_places_count_from_the_newest(ledger: Ledger, clock: StoppedClock) -> None:
    ids = some(ledger, clock)
    assert shown(ledger) == ids[::-1]
    assert shown(ledger, limit=2, offset=1) == [ids[3], ids[2]]
    assert shown(ledger, offset=5) == []
    assert ledger.job_pages.count(of="default", statuses=WAITING) == 5


def test_each_tenant_has_its_own(ledger: Ledger, clock: StoppedClock) -> None:
    own, [other] = some(ledger, clock), some(ledger, clock, 1, tenant="acme")
    assert shown(ledger, of="acme") == [other]
    assert ledger.job_pages.count(of="acme", statuses=WAITING) == 1
    assert ledger.job_pages.named(other, of="default") is None
    assert ledger.job_pages.named(own[0], of="default") == own[0]
    assert ledger.job_pages.submitted([own[0], other], of="acme").keys() == {other}


def test_labels_and_times_are_looked_for(ledger: Ledger, clock: StoppedClock) -> None:
    some(ledger, clock, 2)
    ids = some(ledger, clock, 2, metadata={"client_id": "c"})
    assert shown(ledger, labels={"client_id": "c"}) == ids[::-1]
    assert ledger.job_pages.count(of="default", statuses=WAITING, labels={"client_id": "c"}) == 2
    assert shown(ledger, from_ms=clock.now_ms - 10) == [ids[1]]


def test_a_client_may_have_its_own_id(ledger: Ledger) -> None:
    job = submit(ledger, request_id="mine")
    assert ledger.job_pages.named("mine", of="default") == job.id == ledger.job_pages.named(job.id, of="default")
    assert ledger.job_pages.named("other", of="default") is None


def test_what_was_sent_is_returned(ledger: Ledger) -> None:
    plain, full = submit(ledger), submit(ledger, extra_pnginfo={"workflow": {"id": "w"}})
    found = ledger.job_pages.submitted([plain.id, full.id, "none"])
    assert found.keys() == {plain.id, full.id}
    assert (found[plain.id].graph, found[plain.id].extra_pnginfo) == ('{"1":{}}', None)
    assert json.loads(found[full.id].extra_pnginfo or "") == {"workflow": {"id": "w"}}


def test_only_what_has_ended_is_hidden_and_it_stays(ledger: Ledger, clock: StoppedClock) -> None:
    ids = some(ledger, clock)
    [other] = some(ledger, clock, 1, tenant="acme")
    for job_id in (*ids[:3], other):
        ledger.jobs.cancel(job_id)
    ledger.job_pages.hide([ids[0], ids[4], other], of="default")
    assert shown(ledger, (CANCELED,)) == [ids[2], ids[1]]
    assert shown(ledger) == [ids[4], ids[3]]
    ledger.job_pages.hide(None, of="default")
    assert shown(ledger, (CANCELED,)) == []
    assert shown(ledger, (CANCELED,), of="acme") == [other]
    assert ledger.job_pages.named(ids[0], of="default") == ids[0]
    assert ledger.jobs.get(ids[0]).status == CANCELED
