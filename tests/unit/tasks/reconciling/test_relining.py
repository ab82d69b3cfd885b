"""Jobs that an earlier version has left, led into the lines of the models that their graphs load."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import jobs, lines
from core.records.job import new_job_id
from core.records.requirements import Requirements
from tasks.reconciling import relining
from tasks.reconciling.relining import TIME_LIMIT_S, Relining, mend_lines
from tests.ledger_moves import set_columns, submit
from tests.makers import BrokerlessRuntime, Stopwatch, come_up

#: Files that a graph loads, and the graph.
SDXL = "sdxl.safetensors"


def graph(*files: str) -> str:
    return json.dumps({str(number): {"class_type": "L", "inputs": {"n": file}} for number, file in enumerate(files)})


def left_behind(ledger: Ledger, *files: str, **fields: Any) -> str:
    """A waiting job in a line without models, whatever its graph loads."""
    return submit(ledger, graph_text=graph(*files), **fields).id


def files_of_line(ledger: Ledger, job_id: str) -> list[str]:
    query = select(lines.c.files).join_from(jobs, lines, jobs.c.line == lines.c.id).where(jobs.c.id == job_id)
    with ledger.database.read() as connection:
        return list(connection.execute(query).scalar_one())


def counts(ledger: Ledger) -> dict[tuple[str, ...], int]:
    """How many jobs wait, by the model files of the line that counts them."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(lines.c.files, lines.c.waiting).where(lines.c.waiting > 0)).all()
    return {tuple(row.files): row.waiting for row in rows}


def test_they_stand_with_their_models_then_and_keep_what_else_they_are(ledger: Ledger) -> None:
    asked: dict[str, Any] = {"requires": Requirements(pool="a"), "priority": 3}
    plain, sdxl = left_behind(ledger), left_behind(ledger, SDXL, "vae.pt", **asked)
    assert files_of_line(ledger, sdxl) == []
    assert Relining(ledger).go_on() == 1
    assert (files_of_line(ledger, plain), files_of_line(ledger, sdxl)) == ([], [SDXL, "vae.pt"])
    assert counts(ledger) == {(): 1, (SDXL, "vae.pt"): 1}
    submit(ledger, models=(SDXL, "vae.pt"), **asked)
    assert counts(ledger) == {(): 1, (SDXL, "vae.pt"): 2}, "the line that a new one comes into"


def test_why_it_waits_tells_of_its_models(runtime: BrokerlessRuntime) -> None:
    ledger = runtime.ledger
    come_up(ledger)
    job_id = left_behind(ledger, SDXL)
    mend_lines(runtime)
    line_id, index = ledger.outlook.indexes([job_id])[job_id]
    assert f"loads {SDXL} first" in ledger.outlook.read().forecast.sentence(line_id, index)


def test_one_in_no_line_comes_into_that_of_its_models(runtime: BrokerlessRuntime) -> None:
    # Of an API of an earlier version, which runs beside ours and goes on after the look is over.
    mend_lines(runtime)
    job_id = left_behind(runtime.ledger, SDXL)
    set_columns(runtime.ledger, job_id, line=None)
    mend_lines(runtime)
    assert files_of_line(runtime.ledger, job_id) == [SDXL]


def test_what_has_begun_meanwhile_is_left_alone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = left_behind(ledger, SDXL)
    original = relining.files_of

    def claimed_meanwhile(*given: Any) -> dict[str, tuple[str, ...]]:
        found = original(*given)
        claim = ledger.claims.claim("gpu0@here", named=job_id)
        assert claim is not None
        return found

    monkeypatch.setattr(relining, "files_of", claimed_meanwhile)
    assert Relining(ledger).go_on() == 0
    assert (files_of_line(ledger, job_id), counts(ledger)) == ([], {})


@pytest.mark.parametrize("text", ['{"1": {}}', '{"1": 5}', "[]"])
def test_a_graph_that_cannot_be_read_keeps_no_other_job(ledger: Ledger, text: str) -> None:
    first = submit(ledger, graph_text=text, id="0" * 8 + new_job_id()[8:])
    other = left_behind(ledger, SDXL)
    assert Relining(ledger).go_on() == 1
    assert (files_of_line(ledger, first.id), files_of_line(ledger, other)) == ([], [SDXL])


def test_a_run_gives_it_so_much_time_and_there_is_one_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, looks = Stopwatch(), list[str]()
    monkeypatch.setattr(relining, "time", watch)
    monkeypatch.setattr(relining, "BATCH", 1)
    for _ in range(3):
        left_behind(ledger, SDXL)
    original = ledger.line_mender.without_models

    def slow(*, after: str, limit: int) -> list[str]:
        looks.append(after)
        watch.now_s += TIME_LIMIT_S * 0.6
        return original(after=after, limit=limit)

    monkeypatch.setattr(ledger.line_mender, "without_models", slow)
    looking = Relining(ledger)
    assert [looking.go_on() for _ in range(4)] == [2, 1, 0, 0]
    assert len(looks) == 4
