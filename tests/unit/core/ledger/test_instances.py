"""Instances: who has a name, what its worker says of it, who is heard of, and what is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from core.ledger import Ledger
from core.ledger.catalogues import keep_catalogue
from core.ledger.database.connections import Transaction
from core.ledger.database.error_map import Conflict
from core.ledger.database.fleet_tables import catalogues
from core.ledger.database.tables import instances, residents
from core.ledger.instances import (
    DISK_FULL,
    DRAINED,
    DRAINING,
    HEALTHY,
    QUARANTINED,
    STARTING,
    STOPPED,
    UNHEALTHY,
    NameOwner,
)
from core.ledger.model_sets import model_set_of
from core.records.instance import HeldModel
from tests.ledger_moves import claimed, submit
from tests.makers import NAME, WORKER, StoppedClock, come_up, record_of

#: Whom nobody has heard of for so long is silent, and after a day forgotten.
SILENCE_MS, DAY_MS = 20_000, 86_400_000


def register(ledger: Ledger, worker: str = WORKER, name: str = NAME, **fields: Any) -> bool | None:
    return ledger.instances.register(
        **{"name": name, "host": "here", "worker": worker, "kind": "comfyui", "gpu": "0", **fields}
    )


def set_row(ledger: Ledger, name: str = NAME, **values: Any) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(instances).where(instances.c.name == name).values(**values))


def row_of(ledger: Ledger, name: str = NAME) -> Any:
    with ledger.database.read() as connection:
        return connection.execute(select(instances).where(instances.c.name == name)).one()


def residents_of(ledger: Ledger, name: str = NAME) -> set[str]:
    """The sets of model files that an instance holds."""
    with ledger.database.read() as connection:
        return set(connection.execute(select(residents.c.models).where(residents.c.instance == name)).scalars())


def beat(ledger: Ledger, state: str = HEALTHY, worker: str = WORKER, **fields: Any) -> bool:
    values: dict[str, Any] = {"reason": None, "is_drained": False, "restarts": 0}
    return ledger.instances.heartbeat(NAME, worker=worker, state=state, **{**values, **fields})


def digests(ledger: Ledger) -> set[str]:
    """The catalogues that are kept."""
    with ledger.database.read() as connection:
        return set(connection.execute(select(catalogues.c.digest)).scalars())


@pytest.fixture
def rival(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next to write finds that another one wrote the same in that moment."""
    write = ledger.database.write
    rivals = [Conflict("x")]

    @contextmanager
    def second() -> Iterator[Transaction]:
        if rivals:
            raise rivals.pop()
        with write() as transaction:
            yield transaction

    monkeypatch.setattr(ledger.database, "write", second)


class TestRegister:
    def test_a_new_name(self, ledger: Ledger, clock: StoppedClock) -> None:
        assert register(ledger, place="boot /dir", pid=7) is False
        found = record_of(ledger)
        assert (found.name, found.host, found.worker, found.kind, found.gpu) == (NAME, "here", WORKER, "comfyui", "0")
        assert (found.state, found.restarts, found.reason, found.url) == (STARTING, 0, None, None)
        assert found.started_at_ms == found.heartbeat_at_ms == clock.now_ms
        assert ledger.instances.owner_of(NAME) == NameOwner(
            worker=WORKER, pid=7, place="boot /dir", heartbeat_at_ms=clock.now_ms
        )

    @pytest.mark.parametrize("is_drained", [True, False])
    def test_its_own_begins_anew_and_says_whether_it_is_drained(
        self, ledger: Ledger, clock: StoppedClock, is_drained: bool
    ) -> None:
        come_up(ledger, restarts=3)
        beat(ledger, is_drained=is_drained, reason="r", restarts=3, quarantined_until_ms=5)
        clock.pass_ms(9)
        assert register(ledger) is is_drained
        found = record_of(ledger)
        assert (found.state, found.restarts, found.reason, found.url) == (STARTING, 0, None, None)
        assert (found.up_since_ms, found.quarantined_until_ms) == (None, None)
        assert found.started_at_ms == found.heartbeat_at_ms == clock.now_ms

    def test_another_name_is_left_alone(self, ledger: Ledger) -> None:
        come_up(ledger, "gpu1@here")
        register(ledger)
        assert record_of(ledger, "gpu1@here").state == HEALTHY

    def test_anothers_is_refused_and_left_alone(self, ledger: Ledger) -> None:
        before = come_up(ledger)
        assert register(ledger, "other") is None
        assert register(ledger, "other", place="p") is None
        assert record_of(ledger) == before

    def test_one_that_was_left_is_free(self, ledger: Ledger) -> None:
        come_up(ledger)
        ledger.instances.down(NAME, worker=WORKER, state=STOPPED, reason="bye")
        assert register(ledger, "other") is False
        assert record_of(ledger).worker == "other"

    def test_a_successor_in_the_same_place_has_it(self, ledger: Ledger) -> None:
        register(ledger, place="p")
        assert register(ledger, "other", place="q") is None
        assert register(ledger, "other", place="p") is False

    def test_one_that_fell_silent_loses_it_unless_it_has_spoken(self, ledger: Ledger, clock: StoppedClock) -> None:
        register(ledger)
        seen = ledger.instances.owner_of(NAME)
        assert seen is not None
        assert register(ledger, "other", over=replace(seen, worker="third")) is None
        clock.pass_ms(1)
        beat(ledger)
        assert register(ledger, "other", over=seen) is None
        assert register(ledger, "other", over=ledger.instances.owner_of(NAME)) is False

    @pytest.mark.usefixtures("rival")
    def test_another_was_first_by_a_moment(self, ledger: Ledger) -> None:
        assert register(ledger) is None


class TestOwners:
    def test_of_one_host_that_were_heard_of_lately(self, ledger: Ledger, clock: StoppedClock) -> None:
        register(ledger, "gone", "a@here")
        register(ledger, "left", "b@here")
        register(ledger, "elsewhere", "c@there", host="there")
        clock.pass_ms(1)
        register(ledger, "there", "d@here", pid=5)
        ledger.instances.down("b@here", worker="left", state=STOPPED, reason="bye")
        clock.pass_ms(SILENCE_MS - 1)
        assert [owner.worker for owner in ledger.instances.owners_on("here")] == ["there"]
        assert ledger.instances.owners_on("here")[0].pid == 5

    def test_there_is_none(self, ledger: Ledger) -> None:
        register(ledger)
        assert ledger.instances.owner_of("gpu7@here") is None

    @pytest.mark.parametrize(
        ("pid", "place", "text"),
        [
            (None, None, "worker w"),
            (7, None, "worker w, process 7"),
            (7, "b00t /data/gpu0", "worker w, process 7, on the machine with boot id b00t"),
        ],
    )
    def test_in_words(self, pid: int | None, place: str | None, text: str) -> None:
        assert str(NameOwner(worker="w", pid=pid, place=place, heartbeat_at_ms=1)) == text


class TestReports:
    def test_it_answers(self, ledger: Ledger, clock: StoppedClock) -> None:
        register(ledger)
        beat(ledger, QUARANTINED, quarantined_until_ms=9)
        clock.pass_ms(5)
        found = come_up(ledger, url="u", output_dir="/o", restarts=2, warmup_s=1.5, object_info={"A": {}})
        assert (found.state, found.reason, found.url, found.output_dir) == (HEALTHY, None, "u", "/o")
        assert (found.version, found.device, found.restarts, found.warmup_s) == ("1", "d", 2, 1.5)
        assert found.up_since_ms == found.heartbeat_at_ms == clock.now_ms
        assert found.quarantined_until_ms is None
        assert ledger.instances.catalogue(row_of(ledger).catalogue) == {"A": {}}

    def test_another_process_has_nothing_in_its_memory(self, ledger: Ledger) -> None:
        come_up(ledger, held=["a", "b"])
        assert [file.name for file in record_of(ledger).held] == ["a", "b"]
        assert come_up(ledger, state=DISK_FULL, reason="full").held == ()
        assert (record_of(ledger).state, record_of(ledger).reason) == (DISK_FULL, "full")

    def test_what_a_warm_up_loaded_is_held(self, ledger: Ledger) -> None:
        submit(ledger, models=("b",))
        submit(ledger, models=("b", "c"))
        found = come_up(ledger, held=("b", "a", "b"), model_sizes={"a": 7, "c": 9})
        assert found.held == (HeldModel(name="a", size_bytes=7), HeldModel(name="b", size_bytes=None))
        assert residents_of(ledger) == {model_set_of(("b",)), model_set_of(("a", "b"))}
        come_up(ledger)
        assert (record_of(ledger).held, residents_of(ledger)) == ((), set())

    def test_one_that_freed_its_memory_holds_nothing(self, ledger: Ledger) -> None:
        come_up(ledger, held=("a",))
        ledger.instances.forget_models(NAME, worker="other")
        assert (len(record_of(ledger).held), len(residents_of(ledger))) == (1, 1)
        ledger.instances.forget_models(NAME, worker=WORKER)
        assert (record_of(ledger).held, residents_of(ledger)) == ((), set())

    @pytest.mark.parametrize("state", [STARTING, UNHEALTHY, STOPPED, QUARANTINED])
    def test_without_its_process_it_holds_nothing(self, ledger: Ledger, state: str) -> None:
        assert len(come_up(ledger, held=["a"]).held) == 1
        if state == STARTING:
            register(ledger)
        elif state == QUARANTINED:
            beat(ledger, state)
        else:
            ledger.instances.down(NAME, worker=WORKER, state=state, reason="Gone.")
        assert (record_of(ledger).state, record_of(ledger).held) == (state, ())

    def test_one_that_is_lost_is_not_said_to_hold_anything(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger, held=["a"])
        clock.pass_ms(SILENCE_MS + 1)
        assert (record_of(ledger).state, record_of(ledger).held) == ("lost", ())

    def test_what_was_held_in_vain_is_not_held(self, ledger: Ledger) -> None:
        submit(ledger, models=("a",))
        come_up(ledger, held=("a", "b"))
        ledger.instances.doubt_models(NAME, worker=WORKER, models=("a",))
        assert [model.name for model in record_of(ledger).held] == ["a"]
        assert residents_of(ledger) == {model_set_of(("a",))}

    def test_what_it_is_for_jobs(self, ledger: Ledger) -> None:
        found = come_up(ledger, pool="fast", vram_bytes=24)
        assert (found.pool, found.vram_bytes) == ("fast", 24)

    def test_loads_count_for_the_day(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        today = clock.now_ms // DAY_MS
        set_row(ledger, loads=3, loading_s=4.5, loads_day=today)
        assert (record_of(ledger).loads, record_of(ledger).loading_s) == (3, 4.5)
        set_row(ledger, loads_day=today - 1)
        assert (record_of(ledger).loads, record_of(ledger).loading_s) == (0, 0.0)

    def test_it_is_down(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        clock.pass_ms(5)
        ledger.instances.down(NAME, worker=WORKER, state=UNHEALTHY, reason="r")
        found = record_of(ledger)
        assert (found.state, found.reason, found.up_since_ms) == (UNHEALTHY, "r", None)
        assert found.heartbeat_at_ms == clock.now_ms

    def test_a_sign_of_life(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        clock.pass_ms(5)
        assert beat(ledger, QUARANTINED, reason="r", is_drained=True, restarts=4, quarantined_until_ms=77)
        found = record_of(ledger)
        assert (found.state, found.reason, found.restarts) == (QUARANTINED, "r", 4)
        assert (found.quarantined_until_ms, found.heartbeat_at_ms) == (77, clock.now_ms)
        assert row_of(ledger).is_drained

    @pytest.mark.parametrize("state", [HEALTHY, DRAINING, DISK_FULL])
    def test_one_that_answers_has_been_up_since_it_came_up(
        self, ledger: Ledger, clock: StoppedClock, state: str
    ) -> None:
        since_ms = come_up(ledger).up_since_ms
        clock.pass_ms(5)
        beat(ledger, state)
        assert record_of(ledger).up_since_ms == since_ms == clock.now_ms - 5

    @pytest.mark.parametrize("state", [STARTING, UNHEALTHY, QUARANTINED, STOPPED])
    def test_one_that_does_not_is_not_up(self, ledger: Ledger, state: str) -> None:
        come_up(ledger)
        beat(ledger, state)
        assert record_of(ledger).up_since_ms is None

    def test_only_the_worker_of_the_row_may_speak_for_it(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger, held=["a"])
        come_up(ledger, "gpu1@here")
        before = row_of(ledger)
        clock.pass_ms(1)
        assert not beat(ledger, UNHEALTHY, "other")
        ledger.instances.down(NAME, worker="other", state=STOPPED, reason="r")
        ledger.instances.offers(NAME, worker="other", object_info={"B": {}})
        ledger.instances.has_looked(NAME, worker="other")
        ledger.instances.forget_models(NAME, worker="other")
        ledger.instances.down("gpu1@here", worker=WORKER, state=UNHEALTHY, reason="r")
        assert row_of(ledger) == before

    def test_it_offers_something_else(self, ledger: Ledger) -> None:
        come_up(ledger, object_info={"A": {}})
        ledger.instances.offers(NAME, worker=WORKER, object_info={"B": {}})
        assert ledger.instances.catalogue(row_of(ledger).catalogue) == {"B": {}}
        assert record_of(ledger).state == HEALTHY

    def test_how_often_it_looked(self, ledger: Ledger) -> None:
        come_up(ledger)
        come_up(ledger, "gpu1@here")
        ledger.instances.has_looked(NAME, worker=WORKER)
        ledger.instances.has_looked(NAME, worker=WORKER)
        assert ledger.instances.looks() == {NAME: 2, "gpu1@here": 0}
        beat(ledger, UNHEALTHY)
        assert ledger.instances.looks() == {"gpu1@here": 0}


class TestLookUp:
    def test_there_is_none(self, ledger: Ledger) -> None:
        come_up(ledger)
        assert ledger.instances.get("gpu7@here") is None

    def test_all_by_name_with_the_job_each_runs(self, ledger: Ledger) -> None:
        come_up(ledger, "gpu1@here")
        come_up(ledger)
        submit(ledger)
        claim = claimed(ledger, "gpu1@here")
        assert [(found.name, found.job_id) for found in ledger.instances.all()] == [
            (NAME, None),
            ("gpu1@here", claim.job_id),
        ]
        ledger.jobs.cancel(claim.job_id)
        assert ledger.instances.all()[1].job_id == claim.job_id, "it has not let go"
        ledger.claims.canceled(claim)
        assert ledger.instances.all()[1].job_id is None

    def test_whether_it_holds_a_job(self, ledger: Ledger) -> None:
        claim = claimed(ledger, "gpu1@here")
        assert ledger.instances.holds_jobs("gpu1@here")
        assert not ledger.instances.holds_jobs(NAME)
        ledger.claims.generated(claim, [], outputs_reused=False)
        assert not ledger.instances.holds_jobs("gpu1@here")

    def test_one_that_is_silent_is_lost(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        beat(ledger, reason="its own")
        clock.pass_ms(SILENCE_MS)
        found = record_of(ledger)
        assert (found.state, found.reason, found.up_since_ms) == (HEALTHY, "its own", clock.now_ms - SILENCE_MS)
        clock.pass_ms(1)
        found = record_of(ledger)
        assert (found.state, found.reason, found.up_since_ms) == ("lost", "Its worker has fallen silent.", None)

    def test_one_that_has_stopped_may_be_silent(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        ledger.instances.down(NAME, worker=WORKER, state=STOPPED, reason="bye")
        clock.pass_ms(SILENCE_MS + 1)
        assert (record_of(ledger).state, record_of(ledger).reason) == (STOPPED, "bye")

    def test_it_is_drained_when_it_runs_nothing_any_more(self, ledger: Ledger) -> None:
        come_up(ledger)
        claim = claimed(ledger)
        beat(ledger, DRAINING)
        assert [found.state for found in ledger.instances.all()] == [DRAINING]
        ledger.claims.generated(claim, [], outputs_reused=False)
        assert [found.state for found in ledger.instances.all()] == [DRAINED]

    def test_one_without_a_job_is_drained_only_if_it_was_to_be(self, ledger: Ledger) -> None:
        assert come_up(ledger).state == HEALTHY

    def test_its_name_on_its_host(self, ledger: Ledger) -> None:
        assert come_up(ledger).gpu_name == "gpu0"

    @pytest.mark.parametrize(
        ("kind", "device", "is_simulated"),
        [
            ("simulator", "d", True),
            ("comfyui", "SIMULATED GPU", True),
            ("comfyui", "d", False),
            ("attached", "", False),
        ],
    )
    def test_whether_its_pictures_are_made_up(self, ledger: Ledger, kind: str, device: str, is_simulated: bool) -> None:
        assert come_up(ledger, kind=kind, device=device or None).is_simulated is is_simulated


class TestCatalogues:
    def test_of_the_healthy_ones_by_name(self, ledger: Ledger, clock: StoppedClock) -> None:
        for name, nodes in (("c@here", "A"), ("a@here", "A"), ("b@here", "B"), (NAME, "C")):
            come_up(ledger, name, object_info={nodes: {}})
        beat(ledger, UNHEALTHY)
        one, other = row_of(ledger, "a@here").catalogue, row_of(ledger, "b@here").catalogue
        clock.pass_ms(SILENCE_MS - 1)
        assert ledger.instances.catalogues() == {one: ["a@here", "c@here"], other: ["b@here"]}
        assert ledger.instances.known_catalogues() == sorted({one, other, row_of(ledger).catalogue})
        clock.pass_ms(1)
        assert ledger.instances.catalogues() == {}

    def test_one_that_never_answered_has_none(self, ledger: Ledger) -> None:
        register(ledger)
        assert ledger.instances.known_catalogues() == []

    def test_equal_ones_are_kept_once_in_whatever_order_they_come(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger, object_info={"A": {}, "B": {}})
        clock.pass_ms(5)
        come_up(ledger, "gpu1@here", object_info={"B": {}, "A": {}})
        assert row_of(ledger).catalogue == row_of(ledger, "gpu1@here").catalogue
        assert len(digests(ledger)) == 1

    def test_one_that_is_gone_is_empty(self, ledger: Ledger) -> None:
        come_up(ledger, object_info={"A": {}})
        assert ledger.instances.catalogue("x") == {}

    @pytest.mark.usefixtures("rival")
    def test_one_that_another_instance_recorded_in_this_moment_is_as_good(self, ledger: Ledger) -> None:
        assert keep_catalogue(ledger.database, {"A": {}}, {}) == keep_catalogue(ledger.database, {"A": {}}, {})
        assert len(digests(ledger)) == 1


class TestForgetting:
    def test_after_a_day_of_silence(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        clock.pass_ms(DAY_MS)
        ledger.instances.forget_silent()
        assert record_of(ledger).state == "lost"
        clock.pass_ms(1)
        come_up(ledger, "gpu1@here", object_info={"A": {}})
        ledger.instances.forget_silent()
        assert [found.name for found in ledger.instances.all()] == ["gpu1@here"]
        assert digests(ledger) == {row_of(ledger, "gpu1@here").catalogue}

    def test_what_an_operator_drained_stays(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        beat(ledger, DRAINING, is_drained=True)
        clock.pass_ms(DAY_MS + 1)
        ledger.instances.forget_silent()
        assert record_of(ledger).state == "lost"
        assert len(digests(ledger)) == 1, "its catalogue is used"

    def test_a_catalogue_that_nobody_uses_stays_for_a_day(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger, object_info={"A": {}})
        old = row_of(ledger).catalogue
        clock.pass_ms(5)
        come_up(ledger, object_info={"B": {}})
        register(ledger, "x", "gpu1@here")
        clock.pass_ms(DAY_MS - 5)
        beat(ledger)
        ledger.instances.forget_silent()
        assert old in digests(ledger)
        clock.pass_ms(1)
        ledger.instances.forget_silent()
        assert digests(ledger) == {row_of(ledger).catalogue}
