"""Jobs as their clients see them: recorded, looked up, listed, counted, cancelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.dialects import postgresql

from core.errors import IdempotencyKeyReuse, NotFound, RequestIdReuse
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.error_map import Conflict
from core.ledger.database.tables import job_inputs, jobs
from core.ledger.event_log import JobEvent
from core.ledger.new_jobs import Retention
from core.records.job import CANCELED, CANCELING, DELIVERING, FAILED, QUEUED, RUNNING, SUCCEEDED, InputRef, Job
from core.records.job_error import JobError
from core.settings import Settings
from tests.ledger_moves import ERROR, accepted, claimed, generated, secrets_of, set_columns, submit, succeeded
from tests.makers import StoppedClock

POSTGRESQL: Any = postgresql.dialect
IDEMPOTENCY_KEY, REQUEST_ID = "key", "r"


def hidden(ledger: Ledger, job_id: str) -> dict[str, Any]:
    """The columns of a job that look-ups leave out."""
    columns = (jobs.c.lost_attempts, jobs.c.graph, jobs.c.catalogues, jobs.c.request_mark, jobs.c.extra_pnginfo)
    with ledger.database.read() as connection:
        return dict(connection.execute(select(*columns).where(jobs.c.id == job_id)).one()._mapping)


def ids(found: list[Job]) -> list[str]:
    return [job.id for job in found]


class TestSubmit:
    def test_a_job_begins_in_the_queue(self, ledger: Ledger, clock: StoppedClock) -> None:
        job = submit(ledger, nodes_total=3, shape="s", priority=2, metadata={"a": "b"}, template="t", timeout_s=9.0)
        assert (job.status, job.attempt, job.last_seq) == (QUEUED, 0, 1)
        assert (job.nodes_total, job.shape, job.priority, job.template, job.timeout_s) == (3, "s", 2, "t", 9.0)
        assert job.created_at_ms == job.updated_at_ms == clock.now_ms
        assert ledger.jobs.get(job.id) == job
        assert ledger.jobs.events(job.id) == [
            JobEvent(seq=1, type="status", data={"status": QUEUED}, at_ms=clock.now_ms)
        ]

    def test_what_look_ups_leave_out(self, ledger: Ledger) -> None:
        given = {"catalogues": ("a", "b"), "graph_text": '{"7":{}}', "extra_pnginfo": {"workflow": {}}}
        assert hidden(ledger, submit(ledger, **given, request_digest=b"d").id) == {
            "lost_attempts": 0,
            "graph": '{"7":{}}',
            "catalogues": "a,b",
            "request_mark": ledger.requests.mark(b"d"),
            "extra_pnginfo": '{"workflow":{}}',
        }

    def test_what_is_not_given_is_null(self, ledger: Ledger) -> None:
        found = hidden(ledger, submit(ledger).id)
        assert (found["catalogues"], found["request_mark"], found["extra_pnginfo"]) == (None, None, None)

    def test_files_are_noted_once_each(self, ledger: Ledger) -> None:
        files = tuple(InputRef(name=name, key=key) for name, key in (("x", "k2"), ("y", "k1"), ("z", "k2")))
        job = submit(ledger, inputs=files)
        submit(ledger)
        assert job.inputs == files
        with ledger.database.read() as connection:
            rows = connection.execute(select(job_inputs).order_by(job_inputs.c.storage_key)).all()
        assert [tuple(row) for row in rows] == [(job.id, "k1"), (job.id, "k2")]

    def test_secrets_are_kept_with_it(self, ledger: Ledger) -> None:
        job, other = submit(ledger, secrets={"s3": {"a": 1}}), submit(ledger)
        assert secrets_of(ledger, job.id) == {"s3": {"a": 1}}
        assert secrets_of(ledger, other.id) == {}

    def test_the_time_it_is_kept(self, ledger: Ledger, clock: StoppedClock) -> None:
        usual, own = submit(ledger), submit(ledger, retention_s=2.5)
        rule = Retention.from_settings(Settings())
        assert usual.expires_at_ms - clock.now_ms == rule.job_ms
        assert usual.files_expire_at_ms - clock.now_ms == rule.files_ms
        assert own.expires_at_ms == own.files_expire_at_ms == clock.now_ms + 2500

    def test_a_key_is_good_for_one(self, ledger: Ledger) -> None:
        first = submit(ledger, idempotency_key=IDEMPOTENCY_KEY)
        with pytest.raises(IdempotencyKeyReuse) as caught:
            submit(ledger, idempotency_key=IDEMPOTENCY_KEY, request_id=REQUEST_ID)
        assert caught.value.job_id == first.id
        assert first.id in caught.value.message
        assert ids(ledger.jobs.page()) == [first.id]

    @pytest.mark.parametrize("key", [None, IDEMPOTENCY_KEY])
    def test_a_request_id_is_good_for_one(self, ledger: Ledger, key: str | None) -> None:
        first = submit(ledger, request_id=REQUEST_ID)
        with pytest.raises(RequestIdReuse, match=REQUEST_ID):
            submit(ledger, request_id=REQUEST_ID, idempotency_key=key)
        assert ids(ledger.jobs.page()) == [first.id]
        assert submit(ledger, idempotency_key=key).id, "the key was not used up"

    def test_another_conflict_is_none_of_theirs(self, ledger: Ledger) -> None:
        job = accepted()
        ledger.jobs.submit(job)
        with pytest.raises(Conflict):
            ledger.jobs.submit(job)


class TestRetention:
    def test_files_are_kept_as_long_unless_the_operator_says_otherwise(self) -> None:
        assert Retention.from_settings(Settings(retention_s=7.5)) == Retention(job_ms=7500, files_ms=7500)
        both = Settings(retention_s=7.5, output_retention_s=2.5)
        assert Retention.from_settings(both) == Retention(job_ms=7500, files_ms=2500)

    def test_a_job_may_have_a_time_of_its_own(self) -> None:
        rule = Retention(job_ms=9, files_ms=8)
        assert rule.of(None) is rule
        assert rule.of(0.0) == Retention(job_ms=0, files_ms=0)


class TestLookUp:
    def test_one_by_its_id(self, ledger: Ledger) -> None:
        claim = succeeded(ledger, files=2)
        found = ledger.jobs.get(claim.job_id)
        assert [output.name for output in found.outputs] == ["out_00000_.png", "out_00001_.png"]
        with pytest.raises(NotFound, match="no job x"):
            ledger.jobs.get("x")

    def test_several(self, ledger: Ledger) -> None:
        one, other = succeeded(ledger, files=1).job_id, submit(ledger).id
        submit(ledger)
        found = ledger.jobs.many([one, other, "gone"])
        assert found == {one: ledger.jobs.get(one), other: ledger.jobs.get(other)}
        assert ledger.jobs.many(["gone"]) == {}

    def test_by_the_id_of_the_client_or_ours(self, ledger: Ledger) -> None:
        job = submit(ledger, request_id=REQUEST_ID)
        submit(ledger, request_id="other")
        assert ledger.jobs.get_by_request_id(REQUEST_ID) == ledger.jobs.get_by_request_id(job.id) == job
        with pytest.raises(NotFound, match="no job x"):
            ledger.jobs.get_by_request_id("x")

    def test_the_graph(self, ledger: Ledger) -> None:
        job = submit(ledger, graph_text='{"7":{}}')
        submit(ledger)
        assert ledger.jobs.graph(job.id) == '{"7":{}}'
        with pytest.raises(NotFound, match="no job x"):
            ledger.jobs.graph("x")


class TestError:
    def test_as_short_as_its_row_has_it(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.claims.fail(claim, ERROR)
        assert ledger.jobs.error(claim.job_id) == ERROR

    def test_at_full_length_where_that_is_kept(self, ledger: Ledger) -> None:
        claim, other = claimed(ledger), claimed(ledger, "gpu1@here")
        whole = replace(ERROR, traceback="long")
        ledger.claims.fail(claim, ERROR, whole=whole)
        ledger.claims.fail(other, ERROR)
        assert ledger.jobs.error(claim.job_id) == whole
        assert ledger.jobs.error(other.job_id) == ERROR

    def test_one_that_says_nothing(self, ledger: Ledger) -> None:
        job = submit(ledger)
        set_columns(ledger, job.id, status=FAILED)
        assert ledger.jobs.error(job.id) == JobError()

    def test_one_that_has_not_failed_has_none(self, ledger: Ledger) -> None:
        job = submit(ledger)
        with pytest.raises(NotFound, match=f"{job.id} has no error: it is queued"):
            ledger.jobs.error(job.id)
        with pytest.raises(NotFound, match="no job x"):
            ledger.jobs.error("x")


class TestPage:
    def test_the_newest_first_and_of_one_moment_by_id(self, ledger: Ledger, clock: StoppedClock) -> None:
        old = [submit(ledger, id=name).id for name in ("b", "c", "a")]
        clock.pass_ms(1)
        newest = submit(ledger, id="0").id
        assert ids(ledger.jobs.page()) == [newest, *sorted(old, reverse=True)]

    def test_page_after_page(self, ledger: Ledger, clock: StoppedClock) -> None:
        for name in ("b", "c", "a"):
            submit(ledger, id=name)
        clock.pass_ms(1)
        submit(ledger, id="0")
        assert ids(ledger.jobs.page(limit=2)) == ["0", "c"]
        assert ids(ledger.jobs.page(after=(clock.now_ms, "0"))) == ["c", "b", "a"]
        assert ids(ledger.jobs.page(after=(clock.now_ms - 1, "c"), limit=1)) == ["b"]
        assert ids(ledger.jobs.page(after=(clock.now_ms - 1, "b"))) == ["a"]

    def test_fifty_where_nobody_says(self, ledger: Ledger) -> None:
        for _ in range(51):
            submit(ledger)
        assert len(ledger.jobs.page()) == 50

    def test_by_status(self, ledger: Ledger) -> None:
        waits, runs = submit(ledger).id, claimed(ledger).job_id
        succeeded(ledger, files=0, priority=1)
        assert ids(ledger.jobs.page(statuses=[RUNNING])) == [runs]
        assert set(ids(ledger.jobs.page(statuses=[RUNNING, QUEUED]))) == {waits, runs}

    def test_by_all_of_its_labels(self, ledger: Ledger) -> None:
        both = submit(ledger, metadata={"a": "1", "b": "2"}).id
        submit(ledger, metadata={"a": "1", "b": "3"})
        submit(ledger, metadata="a")
        submit(ledger)
        assert ids(ledger.jobs.page(labels={"a": "1", "b": "2"})) == [both]

    def test_by_template(self, ledger: Ledger) -> None:
        wanted = submit(ledger, template="t").id
        submit(ledger, template="u")
        submit(ledger)
        assert ids(ledger.jobs.page(template="t")) == [wanted]

    def test_by_the_beginning_of_their_ids(self, ledger: Ledger) -> None:
        for name in ("a", "b", "c", "d"):
            submit(ledger, id=name)
        assert ids(ledger.jobs.page(ids=("b", "c"))) == ["c", "b"]

    def test_by_time(self, ledger: Ledger, clock: StoppedClock) -> None:
        begun_ms = clock.now_ms
        for name in ("a", "b", "c"):
            submit(ledger, id=name)
            clock.pass_ms(1)
        assert ids(ledger.jobs.page(from_ms=begun_ms + 1)) == ["c", "b"]
        assert ids(ledger.jobs.page(until_ms=begun_ms + 1)) == ["a"]

    def test_by_words_of_the_error(self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, message in (("a", "100% of the memory"), ("b", "1000 of the memory"), ("c", "no such file")):
            claim = claimed(ledger, id=name, label=None if name == "c" else "l")
            ledger.claims.fail(claim, JobError(code="node_execution_error", message=message))
            clock.pass_ms(1)
        submit(ledger)
        assert ids(ledger.jobs.page(error="THE memory")) == ["b", "a"]
        assert ids(ledger.jobs.page(error="execution_error", limit=2)) == ["c", "b"]
        assert ids(ledger.jobs.page(error="100%")) == ["a"]
        assert ids(ledger.jobs.page(error="memory", label="l", of="default")) == ["b", "a"]
        assert ledger.jobs.page(error="memory", of="acme") == ledger.jobs.page(error="memory", statuses=[QUEUED]) == []
        last = ledger.jobs.page(error="memory", limit=1)[0]
        assert ids(ledger.jobs.page(error="memory", after=(last.created_at_ms, last.id))) == ["a"]
        monkeypatch.setattr("core.ledger.jobs.MAX_SEARCHED", 2)
        assert ids(ledger.jobs.page(error="memory")) == ["b"], "so many are looked through, the newest"

    def test_each_with_its_outputs(self, ledger: Ledger) -> None:
        claim = succeeded(ledger, files=2)
        submit(ledger)
        assert {job.id: len(job.outputs) for job in ledger.jobs.page()}[claim.job_id] == 2


class TestLog:
    def test_after_a_number_and_not_too_much(self, ledger: Ledger) -> None:
        claim = succeeded(ledger, files=2)
        assert [event.seq for event in ledger.jobs.events(claim.job_id)] == [1, 2, 3, 4, 5, 6]
        assert [event.seq for event in ledger.jobs.events(claim.job_id, after_seq=3)] == [4, 5, 6]
        assert [event.seq for event in ledger.jobs.events(claim.job_id, after_seq=1, limit=2)] == [2, 3]

    def test_of_this_job_alone(self, ledger: Ledger) -> None:
        submit(ledger)
        assert len(ledger.jobs.events(submit(ledger).id)) == 1

    def test_where_many_stand(self, ledger: Ledger) -> None:
        waits, runs = submit(ledger).id, claimed(ledger).job_id
        submit(ledger)
        assert ledger.jobs.states([waits, runs, "gone"]) == {waits: (QUEUED, 1), runs: (RUNNING, 2)}

    def test_how_many_there_are(self, ledger: Ledger) -> None:
        claimed(ledger)
        submit(ledger)
        submit(ledger)
        assert (ledger.jobs.count(QUEUED), ledger.jobs.count(QUEUED, RUNNING), ledger.jobs.count(FAILED)) == (2, 3, 0)


class TestCancel:
    def test_one_that_waits_never_runs(self, ledger: Ledger) -> None:
        job = submit(ledger)
        other = submit(ledger)
        assert ledger.jobs.cancel(job.id) == ledger.jobs.get(job.id)
        assert ledger.jobs.get(job.id).status == CANCELED
        assert ledger.jobs.get(other.id).status == QUEUED

    def test_one_that_runs_has_to_be_let_go(self, ledger: Ledger) -> None:
        job_id = claimed(ledger).job_id
        assert ledger.jobs.cancel(job_id).status == CANCELING
        assert (ledger.jobs.cancel(job_id).status, ledger.jobs.get(job_id).last_seq) == (CANCELING, 3)

    def test_one_that_stores_its_outputs_is_dropped(self, ledger: Ledger) -> None:
        claim = generated(ledger)
        assert ledger.jobs.get(claim.job_id).status == DELIVERING
        assert ledger.jobs.cancel(claim.job_id).status == CANCELED

    def test_one_that_has_ended_stays_as_it_is(self, ledger: Ledger) -> None:
        claim: Claim = succeeded(ledger)
        before = ledger.jobs.get(claim.job_id)
        assert ledger.jobs.cancel(claim.job_id) == before
        assert before.status == SUCCEEDED
        assert ledger.jobs.get(claim.job_id) == before

    def test_there_is_none(self, ledger: Ledger) -> None:
        with pytest.raises(NotFound, match="no job x"):
            ledger.jobs.cancel("x")

    def test_the_row_is_locked_before_it_is_looked_at(self, ledger: Ledger) -> None:
        job, said = submit(ledger), []

        @event.listens_for(ledger.database.engine, "before_execute")
        def _note(_connection: Any, statement: Any, *_more: Any) -> None:
            said.append(str(statement.compile(dialect=POSTGRESQL())))

        ledger.jobs.cancel(job.id)
        assert said[0].endswith("FOR UPDATE")
