"""The outlook as the ledger gives it, on SQLite and on PostgreSQL: places, waits and reasons of real rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, update

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.tables import instances
from core.ledger.instances import DRAINED, DRAINING, LOST, SILENCE_MS, STARTING, UNHEALTHY
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.models.speeds import learn_speed
from core.ledger.scheduling import heads
from core.ledger.scheduling.lines import Lines, WaitingLine
from core.model_files.needs import LISTED_S
from core.records.job import Job
from core.records.model_file import AWAITS_FILES, ModelCopy, ModelFile
from core.records.requirements import Requirements
from tests.ledger_moves import claimed, digest_of, register, set_columns, submit

GPU, OTHER = "gpu0@here", "gpu1@here"
SDXL, FLUX = "sdxl.safetensors", "flux.safetensors"


def _learn(ledger: Ledger, file: str, *, run_s: float, load_s: float) -> None:
    models = model_set_of([file])
    ledger.durations.learn_all({run_subject(models): run_s, load_subject(models): load_s}, gpu="simulator")


def _set_instance(ledger: Ledger, name: str, **values: Any) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(instances).where(instances.c.name == name).values(**values))


def _told(ledger: Ledger, job: Job) -> tuple[int | None, float | None, str]:
    """Position, wait and reason of a job."""
    outlook = ledger.outlook.read()
    line, index = ledger.outlook.indexes([job.id])[job.id]
    place = outlook.place(line, index)
    return place.position, place.starts_in_s, outlook.forecast.sentence(line, index)


def test_an_idle_gpu_loads_for_what_waits_and_names_the_file(ledger: Ledger) -> None:
    register(ledger, GPU)
    _learn(ledger, SDXL, run_s=2.0, load_s=7.0)
    job = submit(ledger, models=(SDXL,))

    position, starts_in_s, sentence = _told(ledger, job)

    assert (position, starts_in_s) == (1, 7.0)
    assert sentence == f"{GPU} takes it now, and loads {SDXL} first, which takes about 7 s."


def test_a_busy_gpu_that_holds_the_models_is_waited_for(ledger: Ledger) -> None:
    register(ledger, GPU)
    _set_instance(ledger, GPU, memory_bytes=10_000_000_000)
    _learn(ledger, SDXL, run_s=30.0, load_s=5.0)
    running = claimed(ledger, models=(SDXL,))
    set_columns(ledger, running.job_id, started_at_ms=now_ms() - 10_000)
    _set_instance(ledger, GPU, free_at_ms=now_ms() + 20_000)
    first, second = submit(ledger, models=(SDXL,)), submit(ledger, models=(SDXL,))
    set_columns(ledger, first.id, created_at_ms=first.created_at_ms - 1)

    told = [_told(ledger, job) for job in (first, second)]

    assert [position for position, _, _ in told] == [1, 2]
    assert [wait_s for _, wait_s, _ in told] == [pytest.approx(20.0, abs=1.0), pytest.approx(50.0, abs=1.0)]
    assert told[0][2] == f"Waits for {GPU}, which holds {SDXL} and is free in about 20 s."
    assert told[1][2] == "1 job like it goes first."


def test_a_gpu_that_loads_is_at_work_for_as_long_as_the_load_and_the_run_take(ledger: Ledger) -> None:
    register(ledger, GPU)
    _learn(ledger, SDXL, run_s=10.0, load_s=40.0)
    claimed(ledger, models=(SDXL,))
    waiting = submit(ledger, models=(SDXL,))

    _, wait_s, _ = _told(ledger, waiting)

    assert wait_s == pytest.approx(50.0, abs=1.0)


def test_what_no_gpu_can_run_has_neither_place_nor_wait(ledger: Ledger) -> None:
    register(ledger, GPU)
    submit(ledger)
    job = submit(ledger, requires=Requirements(pool="big"))

    assert _told(ledger, job) == (None, None, "No GPU of the fleet can run it now: it needs pool big.")


def _turn(ledger: Ledger, name: str, state: str) -> None:
    ledger.instances.heartbeat(name, worker=f"w-{name}", state=state, reason=None, is_drained=False, restarts=0)


def test_what_could_run_a_job_and_takes_none_is_told_with_its_state(ledger: Ledger) -> None:
    for name in (GPU, OTHER, "gpu2@here", "gpu3@here"):
        register(ledger, name)
    _set_instance(ledger, OTHER, pool="big")
    running, job = claimed(ledger, GPU), submit(ledger)
    pinned = submit(ledger, requires=Requirements(pool="big"))
    _turn(ledger, OTHER, DRAINING)

    assert _told(ledger, job)[0] == 1
    assert _told(ledger, pinned)[2].endswith(": it needs pool big; the only GPU that could is drained.")

    for name in (GPU, "gpu2@here"):
        _turn(ledger, name, DRAINING)
    _set_instance(ledger, "gpu3@here", heartbeat_at_ms=now_ms() - SILENCE_MS - 1000)

    assert _told(ledger, job)[2].endswith("now: of 4 GPUs 2 are drained, 1 is draining and 1 is lost.")
    assert {gpu.name: gpu.state for gpu in ledger.instances.all()} == {
        GPU: DRAINING,
        OTHER: DRAINED,
        "gpu2@here": DRAINED,
        "gpu3@here": LOST,
    }
    assert ledger.jobs.get(running.job_id).instance == GPU


def test_one_that_could_not_run_it_does_not_count(ledger: Ledger) -> None:
    register(ledger, GPU)
    register(ledger, OTHER)
    _set_instance(ledger, GPU, vram_bytes=8_000_000_000, state=STARTING)
    _set_instance(ledger, OTHER, vram_bytes=24_000_000_000, state=UNHEALTHY)
    job = submit(ledger, requires=Requirements(vram_gb=16))

    assert _told(ledger, job)[2].endswith("; the only GPU that could is unhealthy.")
    assert _told(ledger, submit(ledger))[2].endswith("now: of 2 GPUs 1 is starting and 1 is unhealthy.")


def test_where_jobs_stand_is_read_from_the_heads_or_counted(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    register(ledger, GPU)
    sdxl = [submit(ledger, models=(SDXL,)) for _ in range(5)]
    flux = [submit(ledger, models=(FLUX,)) for _ in range(3)]
    for number, job in enumerate([*sdxl, *flux]):
        set_columns(ledger, job.id, created_at_ms=now_ms() - 60_000 + number)
    monkeypatch.setattr(heads, "LOOK", 4)
    expected = {job.id: index for jobs in (sdxl, flux) for index, job in enumerate(jobs)}

    near = ledger.outlook.read().indexes
    few = ledger.outlook.indexes(expected)
    monkeypatch.setattr(heads, "FEW", 0)
    many = ledger.outlook.indexes([*expected, "gone"])

    assert {job_id: index for job_id, (_, index) in near.items()} == {
        job.id: index for jobs in (sdxl, flux) for index, job in enumerate(jobs[:2])
    }
    assert few == many
    assert {job_id: index for job_id, (_, index) in many.items()} == expected
    assert len({line for line, _ in many.values()}) == 2


def test_one_that_came_after_the_look_stands_behind_the_others(ledger: Ledger) -> None:
    register(ledger, GPU)
    _learn(ledger, SDXL, run_s=10.0, load_s=5.0)
    submit(ledger, models=(SDXL,))
    outlook = ledger.outlook.read()
    newer = submit(ledger, models=(SDXL,))

    line, index = ledger.outlook.indexes([newer.id])[newer.id]

    assert index == 1
    assert (outlook.place(line, 0).position, outlook.place(line, 0).starts_in_s) == (1, 5.0)
    assert (outlook.place(line, index).position, outlook.place(line, index).starts_in_s) == (2, 15.0)


def test_a_line_that_somebody_comes_to_within_a_look_is_left_to_the_next(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL a look is many statements, each of which sees what was committed until then."""
    register(ledger, GPU)
    submit(ledger, models=(SDXL,))
    read_waiting = Lines.waiting

    def then_one_comes(lines: Lines, connection: Connection) -> list[WaitingLine]:
        found = read_waiting(lines, connection)
        submit(ledger, models=(FLUX,))
        return found

    monkeypatch.setattr(Lines, "waiting", then_one_comes)
    outlook = ledger.outlook.read()

    assert len(outlook.indexes) == 1
    for line, index in outlook.indexes.values():
        assert outlook.place(line, index).position == 1


def test_jobs_that_wait_run_and_are_stored_are_counted(ledger: Ledger) -> None:
    register(ledger, GPU)
    assert ledger.outlook.sizes() == {}
    claimed(ledger)
    submit(ledger, models=(SDXL,))
    submit(ledger)

    assert ledger.outlook.sizes() == ledger.outlook.read().sizes == {"queued": 2, "running": 1}


def test_the_job_on_deck_begins_when_it_does_and_not_when_that_was_expected(ledger: Ledger) -> None:
    register(ledger, GPU)
    _learn(ledger, SDXL, run_s=10.0, load_s=30.0)
    ended = claimed(ledger, models=(SDXL,))
    submit(ledger, models=(SDXL,))
    on_deck = ledger.claims.claim(GPU, ahead=True)
    assert on_deck is not None
    ledger.claims.generated(ended, [], outputs_reused=False)
    ledger.claims.begun(on_deck)
    waiting = submit(ledger, models=(SDXL,))

    _, wait_s, _ = _told(ledger, waiting)

    assert wait_s == pytest.approx(10.0, abs=1.0)


def _fetching_host(ledger: Ledger, name: str, **fields: Any) -> None:
    known: dict[str, Any] = {"worker": f"w-{name}", "pool": fields.get("pool")}
    ledger.instances.register(name=name, host=name.partition("@")[2], kind="simulator", gpu=None, **known)
    ledger.instances.up(
        name,
        url="http://127.0.0.1:1",
        output_dir=None,
        version=None,
        device=None,
        object_info={name: {}},
        model_sizes=dict.fromkeys(fields.get("files", ()), 10**9),
        restarts=0,
        fetches_models=True,
        **known,
    )


def test_a_job_that_waits_for_a_file_begins_when_that_is_there_and_loaded(ledger: Ledger) -> None:
    _fetching_host(ledger, "gpu0@one", pool="p")
    _fetching_host(ledger, "gpu0@two", pool="q")
    _fetching_host(ledger, "gpu1@two", pool="r")
    _learn(ledger, SDXL, run_s=4.0, load_s=7.0)
    path = f"checkpoints/{SDXL}"
    ledger.manifest.put([ModelFile(path=path, source="https://x.example/x", sha256="0" * 64, size_bytes=6 * 10**9)])
    learn_speed(ledger.durations, "two", size_bytes=10**9, seconds=10.0)
    fields: dict[str, Any] = {"models": (SDXL,), "catalogues": (AWAITS_FILES,), "requires": Requirements(pool="q")}
    first, second = submit(ledger, **fields), submit(ledger, **fields)

    position, starts_in_s, sentence = _told(ledger, first)
    assert position == 1
    assert starts_in_s == pytest.approx(60.0 + LISTED_S + 7.0)
    assert sentence == f"Waits for {SDXL} to be fetched, about 1 min."
    assert _told(ledger, second)[1] == pytest.approx(60.0 + LISTED_S + 7.0 + 4.0)

    ledger.copies.put(
        ModelCopy(host="two", path=path, state="fetching", size_bytes=6 * 10**9, done_bytes=5 * 10**9, bytes_s=5e7)
    )
    position, starts_in_s, sentence = _told(ledger, first)
    assert position == 1
    assert starts_in_s == pytest.approx(20.0 + LISTED_S + 7.0)
    assert sentence == f"Fetching {SDXL}: 83 %, about 25 s."

    failed = ModelCopy(host="two", path=path, state="failed", error="https://x.example/x answered 404.")
    ledger.copies.put(failed)
    position, starts_in_s, sentence = _told(ledger, first)
    assert (position, starts_in_s) == (None, None)
    assert sentence == f"Fetching {SDXL} failed, and is tried again: its source answered 404."
    for error in ("https://old.example/x answered 404.", "too long" * 100):
        ledger.copies.put(replace(failed, error=error))
        assert _told(ledger, first)[2] == f"Fetching {SDXL} failed, and is tried again; an operator can see why."


def test_a_backlog_counts_what_waits_for_those_that_have_the_file(ledger: Ledger) -> None:
    _fetching_host(ledger, "gpu0@one", files=(SDXL,))
    _fetching_host(ledger, "gpu0@two")
    _learn(ledger, SDXL, run_s=4.0, load_s=7.0)
    _learn(ledger, FLUX, run_s=10.0, load_s=7.0)
    one, two = digest_of(ledger, "gpu0@one"), digest_of(ledger, "gpu0@two")
    for _ in range(5):
        submit(ledger, models=(SDXL,), catalogues=(one, AWAITS_FILES))
    submit(ledger, models=(FLUX,), catalogues=(one,))
    submit(ledger, models=(FLUX,), catalogues=(two,))
    submit(ledger, models=(FLUX,), catalogues=(two,), priority=-1)
    _set_instance(ledger, "gpu0@one", free_at_ms=now_ms() + 100_000)

    [need] = [need for need in ledger.file_needs.read().needs if need.files == (SDXL,)]

    assert need.is_held_up is False
    assert need.backlog_s == pytest.approx(100 + 5 * 4 + 10, abs=5)
    assert need.busy_s["two"] == pytest.approx(10, abs=1), "lower priorities give way"
    assert need.load_s == 7.0
    assert [each.backlog_s for each in ledger.file_needs.read().needs if each.files == (FLUX,)] == [None] * 3


def test_speeds_are_learned_of_what_is_large_enough(ledger: Ledger) -> None:
    learn_speed(ledger.durations, "one", size_bytes=10**9, seconds=2.0)
    learn_speed(ledger.durations, "two", size_bytes=1000, seconds=2.0)
    learn_speed(ledger.durations, "two", size_bytes=10**9, seconds=0.0)
    assert ledger.file_needs.read().speeds == {"one": pytest.approx(5e8)}
