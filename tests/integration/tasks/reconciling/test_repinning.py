"""Waiting jobs whose catalogue nobody has any more: judged again, pinned anew, or failed with the reason."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from sqlalchemy import insert

from core.ledger import Ledger
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import FORGET_MS, STOPPED
from core.records.job import FAILED, QUEUED, InputRef
from core.records.model_file import AWAITS_FILES, ModelFile
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.reconciling import repinning
from tasks.reconciling.repinning import Review, follow_fleet
from tasks.runtime import equip
from tests.ledger_moves import WEBHOOK, check_log, digest_of, register, submit
from tests.unit.catalogue_literals import CATALOGUE, Nodes, loading, with_checkpoints, with_input
from tests.waiting import PATIENCE

HERE, THERE = "gpu0@here", "gpu1@here"


@pytest.fixture(autouse=True)
def _look_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repinning, "SECOND_LOOK_S", 0.0)


def waiting(ledger: Ledger, graph: Nodes, *catalogues: str, **fields: Any) -> str:
    return submit(ledger, graph_text=json.dumps(graph), catalogues=catalogues, **fields).id


def pins_of(ledger: Ledger, job_id: str) -> str | None:
    with ledger.database.read() as connection:
        found: str | None = connection.execute(jobs.select().where(jobs.c.id == job_id)).one().catalogues
    return found


def test_a_job_runs_on_the_same_instance_with_another_file(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE)
    job_id = waiting(ledger, loading("a"), digest_of(ledger, HERE))
    review = Review(ledger)
    review.go_on()
    register(ledger, HERE, with_checkpoints("a", "b"))
    assert ledger.claims.claim(HERE, named=job_id) is None

    assert review.go_on() == []

    assert pins_of(ledger, job_id) == digest_of(ledger, HERE)
    assert ledger.claims.claim(THERE, named=job_id) is None
    claim = ledger.claims.claim(HERE, named=job_id)
    assert claim is not None
    assert claim.job_id == job_id


def test_values_that_are_lists_or_objects_keep_nobody_from_being_judged(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE)
    odd = with_input("ImageInvert", "image", {"__value__": [[1, 2]]})
    for graph in (odd, with_input("ImageInvert", "image", {"points": [1]}), loading("a")):
        waiting(ledger, graph, "0" * 64)

    assert Review(ledger).go_on() == []

    with ledger.database.read() as connection:
        found = {row.catalogues for row in connection.execute(jobs.select())}
    assert found == {digest_of(ledger, HERE)}


def test_a_job_that_every_instance_can_run_has_no_pins(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    job_id = waiting(ledger, loading("a"), "0" * 64)

    Review(ledger).go_on()

    assert pins_of(ledger, job_id) is None


def test_a_job_that_nothing_can_run_any_more_fails_with_the_reason(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("b"))
    job_id = waiting(ledger, loading("a"), "0" * 64, webhook=WEBHOOK)

    assert Review(ledger).go_on() == [job_id]

    job = ledger.jobs.get(job_id)
    assert job.status == FAILED
    assert job.error is not None
    assert job.error.code == "invalid_workflow"
    assert job.error.node_id == "n"
    assert job.error.class_type == "CheckpointLoaderSimple"
    assert "ckpt_name: 'a' not in ['b']" in job.error.message
    assert check_log(ledger, job_id) == [QUEUED, FAILED]
    assert ledger.outbox.jobs_due() == [job_id]


def test_the_files_that_a_job_brings_count(ledger: Ledger) -> None:
    register(ledger, HERE, CATALOGUE)
    job = submit(
        ledger,
        graph_text=json.dumps(with_input("LoadImage", "image", "0f8fad5b-d9cb-469f-a165-70867728950e/0-a.png")),
        catalogues=("0" * 64,),
        inputs=(InputRef(name="0f8fad5b-d9cb-469f-a165-70867728950e/0-a.png", key="k"),),
    )

    assert Review(ledger).go_on() == []

    assert pins_of(ledger, job.id) is None


def test_a_fleet_without_any_instance_fails_nothing(ledger: Ledger) -> None:
    job_id = waiting(ledger, loading("a"), "0" * 64)
    assert Review(ledger).go_on() == []

    register(ledger, HERE, with_checkpoints("b"))
    ledger.instances.down(HERE, worker=f"w-{HERE}", state=STOPPED, reason="off")
    assert Review(ledger).go_on() == []

    assert ledger.jobs.get(job_id).status == QUEUED


def test_a_job_waits_for_an_instance_that_is_away_and_known(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    pinned = digest_of(ledger, HERE)
    job_id, unknown = waiting(ledger, loading("a"), pinned), waiting(ledger, loading("a"), "0" * 64)
    ledger.instances.down(HERE, worker=f"w-{HERE}", state=STOPPED, reason="off")
    register(ledger, THERE, with_checkpoints("b"))

    assert Review(ledger).go_on() == []

    assert pins_of(ledger, job_id) == pins_of(ledger, unknown) == pinned
    # Until it is forgotten.
    with ledger.database.write() as transaction:
        gone = ledger.jobs.get(job_id).created_at_ms - FORGET_MS - 1
        transaction.connection.execute(instances.update().where(instances.c.name == HERE).values(heartbeat_at_ms=gone))
    ledger.instances.forget_silent()
    assert sorted(Review(ledger).go_on()) == sorted([job_id, unknown])


def test_an_instance_that_comes_back_keeps_its_right_to_a_job(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE, with_checkpoints("b"))
    away = digest_of(ledger, HERE)
    job_id = waiting(ledger, loading("a"), away)
    ledger.instances.down(HERE, worker=f"w-{HERE}", state=STOPPED, reason="off")
    register(ledger, "gpu2@here", with_checkpoints("a", "c"))

    Review(ledger).go_on()

    assert pins_of(ledger, job_id) == f"{digest_of(ledger, 'gpu2@here')},{away}"


def test_jobs_that_somebody_can_run_are_left_alone(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE, with_checkpoints("b"))
    job_id = waiting(ledger, {"not": {"class_type": "a graph", "inputs": {}}}, digest_of(ledger, THERE))

    assert Review(ledger).go_on() == []

    assert ledger.jobs.get(job_id).status == QUEUED


def test_a_job_pinned_to_what_was_true_a_moment_ago_is_found_by_the_second_look(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("b"))
    review = Review(ledger)
    review._notice_changes()
    review._end_look()
    job_id = waiting(ledger, loading("a"), "0" * 64)

    assert review.go_on() == [job_id]
    late = waiting(ledger, loading("a"), "0" * 64)
    # Nothing has changed since: nobody looks.
    assert review.go_on() == []
    assert ledger.jobs.get(late).status == QUEUED


def test_many_jobs_take_several_runs_of_little_time(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    graph = json.dumps(loading("a"))
    template = submit(ledger, graph_text=graph, catalogues=("0" * 64,))
    with ledger.database.write() as transaction:
        row = dict(transaction.connection.execute(jobs.select().where(jobs.c.id == template.id)).one()._mapping)
        rows = [row | {"id": f"00000000-0000-4000-8000-{n:012}", "request_id": None} for n in range(1_200)]
        transaction.connection.execute(insert(jobs), rows)
    review = Review(ledger)

    runs = 0
    while ledger.pins.waiting(after="", limit=1):
        begun_s = time.monotonic()
        review.go_on(time_limit_s=0.02)
        # One step more than the time allows; far below this on an idle machine.
        assert time.monotonic() - begun_s < 5.0 * PATIENCE
        runs += 1

    assert runs > 1
    assert ledger.jobs.count(QUEUED) == 1_201


def test_a_client_is_told_of_the_failure(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = equip(make_app(ledger_settings, "api"), ledger_settings)
    notified: list[str] = []
    monkeypatch.setattr(runtime.publisher, "notify", notified.append)
    register(runtime.ledger, HERE, with_checkpoints("b"))
    job_id = waiting(runtime.ledger, loading("a"), "0" * 64, webhook=WEBHOOK)

    follow_fleet(runtime)

    assert runtime.ledger.jobs.get(job_id).status == FAILED
    assert job_id in notified
    runtime.close()


def test_a_job_waits_for_files_that_can_be_fetched_and_follows_them(ledger: Ledger) -> None:
    entry = ModelFile(path="checkpoints/a.safetensors", source="https://models.example/a", sha256="0" * 64)
    ledger.manifest.put([entry])
    register(ledger, HERE, with_checkpoints("other.safetensors"))
    review = Review(ledger)
    job_id = waiting(ledger, loading("a.safetensors"), "0" * 64)
    assert review.go_on() == []
    assert pins_of(ledger, job_id) == AWAITS_FILES
    assert ledger.claims.claim(HERE, named=job_id) is None

    register(ledger, HERE, with_checkpoints("a.safetensors", "other.safetensors"))
    assert review.go_on() == []
    assert pins_of(ledger, job_id) is None
    # It goes away again, and then out of the manifest.
    register(ledger, HERE, with_checkpoints("other.safetensors"))
    again = waiting(ledger, loading("a.safetensors"), AWAITS_FILES)
    assert review.go_on() == []
    assert pins_of(ledger, again) == AWAITS_FILES
    ledger.manifest.remove(entry.path)
    assert review.go_on() == [again]
    assert ledger.jobs.get(again).status == FAILED


def test_a_job_may_go_where_its_file_was_fetched_beside_where_it_was(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE, with_checkpoints("b"))
    ledger.manifest.put([ModelFile(path="checkpoints/a", source="https://x.example/a", sha256="0" * 64)])
    here = digest_of(ledger, HERE)
    job_id = waiting(ledger, loading("a"), here, AWAITS_FILES, models=("a",))
    other = waiting(ledger, loading("a"), here, models=("a",))
    review = Review(ledger)
    review.go_on()
    assert pins_of(ledger, job_id) == f"{here},{AWAITS_FILES}"

    lists(ledger, THERE, "a", "b")

    assert review.go_on() == []
    assert pins_of(ledger, job_id) is None, "every instance can run it"
    assert pins_of(ledger, other) == here, "of this one nobody said that others could"
    assert ledger.claims.claim(THERE, named=job_id) is not None


def test_a_job_that_further_hosts_could_run_keeps_that_when_one_has_fetched_its_file(ledger: Ledger) -> None:
    register(ledger, HERE, with_checkpoints("a"))
    register(ledger, THERE, with_checkpoints("b"))
    register(ledger, "gpu2@here", with_checkpoints("c"))
    ledger.manifest.put([ModelFile(path="checkpoints/a", source="https://x.example/a", sha256="0" * 64)])
    here = digest_of(ledger, HERE)
    job_id = waiting(ledger, loading("a"), here, AWAITS_FILES, models=("a",))
    review = Review(ledger)
    review.go_on()
    lists(ledger, THERE, "a", "b")
    review.go_on()
    assert sorted(str(pins_of(ledger, job_id)).split(",")) == sorted([here, digest_of(ledger, THERE), AWAITS_FILES])


def lists(ledger: Ledger, name: str, *files: str) -> None:
    """An instance has other files now, and says how large they are."""
    ledger.instances.up(
        name,
        worker=f"w-{name}",
        url="http://127.0.0.1:1",
        output_dir=None,
        version=None,
        device=None,
        object_info=with_checkpoints(*files),
        model_sizes=dict.fromkeys(files, 7),
        restarts=0,
    )
