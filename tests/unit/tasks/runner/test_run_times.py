"""What is learned of durations: on this instance for looking ahead, and in the ledger for everybody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.learned_tables import durations
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.scheduling.learned import USUAL_LOAD_S
from core.records.instance import InstanceRecord
from tasks.runner import run_times
from tasks.runner.run_times import KEPT, PAUSE_S, Durations, Teacher, gpu_seconds, was_held_in_vain
from tests.ledger_moves import ERROR, claimed
from tests.makers import GRAPH, Stopwatch, come_up, result_of


def learned(ledger: Ledger, gpu: str = "RTX") -> dict[str, float]:
    """What the ledger knows: seconds by what took them."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(durations.c.what, durations.c.average_s).where(durations.c.gpu == gpu))
        return {row.what: row.average_s for row in rows}


def cold(claim: Claim, load_s: float = 10.0) -> Claim:
    """The same, of an instance that had to load its models."""
    return replace(claim, load_s=load_s)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(run_times, "time", watch)
    return watch


class TestDurations:
    def test_an_average_follows_the_newest(self) -> None:
        durations = Durations()
        assert durations.expect("a") is None
        durations.learn("a", 4.0)
        assert durations.expect("a") == 4.0
        durations.learn("a", 8.0)
        assert durations.expect("a") == 6.0
        assert durations.expect("b") is None

    def test_the_least_recently_learned_is_forgotten(self) -> None:
        durations = Durations()
        for number in range(KEPT):
            durations.learn(str(number), 1.0)
        durations.learn("0", 1.0)
        assert durations.expect("1") == 1.0
        durations.learn("new", 1.0)
        assert (durations.expect("0"), durations.expect("1"), durations.expect("2")) == (1.0, None, 1.0)


class TestTeacher:
    @pytest.fixture
    def teacher(self, ledger: Ledger, watch: Stopwatch) -> Teacher:
        return Teacher(ledger)

    @pytest.fixture
    def instance(self, ledger: Ledger) -> InstanceRecord:
        return come_up(ledger, device="RTX")

    def test_a_run_teaches_what_such_jobs_take(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        models = ("a.pt", "b.pt")
        claim = claimed(ledger, shape="s", template="w", models=models)
        teacher.tell(replace(claim, load_s=0.0), instance, 3.5)
        assert learned(ledger) == {"shape:s": 3.5, "workflow:w": 3.5, run_subject(model_set_of(models)): 3.5}

    def test_a_run_with_a_load_teaches_the_load_alone(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        claim = claimed(ledger, shape="s", models=("a.pt",))
        teacher.tell(replace(claim, load_s=0.0), instance, 4.0)
        teacher.tell(cold(claim), instance, 16.5)
        loads = load_subject(model_set_of(("a.pt",)))
        assert learned(ledger)["shape:s"] == 4.0
        assert learned(ledger)[loads] == 12.5

    @pytest.mark.parametrize(("seconds", "run_s", "load_s"), [(16.0, 8.0, 8.0), (60.0, 50.0, USUAL_LOAD_S)])
    def test_of_a_first_run_with_a_load_both_parts_are_guessed(
        self,
        ledger: Ledger,
        teacher: Teacher,
        instance: InstanceRecord,
        watch: Stopwatch,
        seconds: float,
        run_s: float,
        load_s: float,
    ) -> None:
        claim, models = claimed(ledger, shape="s", models=("a.pt",)), model_set_of(("a.pt",))
        teacher.tell(cold(claim), instance, seconds)
        guessed = {"shape:s": run_s, run_subject(models): run_s, load_subject(models): load_s}
        assert learned(ledger) == guessed
        watch.now_s += PAUSE_S
        teacher.tell(cold(claim), instance, 2 * seconds)
        assert learned(ledger) == guessed, "another one of these tells no more"
        teacher.tell(replace(claim, load_s=0.0), instance, 3.0)
        first = {"shape:s": 3.0, run_subject(models): 3.0, load_subject(models): run_s + load_s - 3.0}
        assert learned(ledger) == first, "one without a load tells what the load was"
        watch.now_s += PAUSE_S
        teacher.tell(cold(claim), instance, 15.0)
        loads_s = (first[load_subject(models)] + 12.0) / 2
        assert learned(ledger) == first | {load_subject(models): pytest.approx(loads_s)}

    def test_a_run_of_another_shape_does_not_tell_what_the_load_was(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        long, short = (claimed(ledger, shape=shape, models=("a.pt",)) for shape in ("long", "short"))
        teacher.tell(cold(long), instance, 60.0)
        teacher.tell(replace(short, load_s=0.0), instance, 2.0)
        assert learned(ledger)[load_subject(model_set_of(("a.pt",)))] == USUAL_LOAD_S

    def test_a_load_that_is_known_is_no_part_of_a_new_run(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        models = model_set_of(("a.pt",))
        ledger.durations.learn_all({load_subject(models): 4.0}, gpu="RTX")
        teacher.tell(cold(claimed(ledger, shape="s", models=("a.pt",))), instance, 10.0)
        assert learned(ledger) == {"shape:s": 6.0, run_subject(models): 6.0, load_subject(models): 4.0}

    def test_a_run_disproves_that_its_shape_needs_more_memory(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        come_up(ledger, "gpu1@here", device="GTX")
        claim = claimed(ledger, instance.name, shape="s")
        ledger.lessons.learn(claim.job_id, claim.attempt)
        teacher.tell(claim, instance, None)
        assert ledger.lessons.wanted()["s"], "what came from the cache needed none"
        teacher.tell(claim, instance, 3.0)
        assert ledger.lessons.wanted() == {"s": ()}

    @pytest.mark.parametrize(
        ("seconds", "cold_load_s", "in_vain"),
        [(10.0, 10.0, False), (10.1, 10.0, True), (6.0, 2.5, False), (6.1, 2.5, True), (50.0, 0.9, False)],
    )
    def test_held_in_vain(self, ledger: Ledger, seconds: float, cold_load_s: float, in_vain: bool) -> None:
        claim = replace(claimed(ledger), load_s=0.0, run_s=4.0, cold_load_s=cold_load_s)
        assert was_held_in_vain(claim, seconds) is in_vain
        assert not was_held_in_vain(cold(claim), seconds), "it was known to load"

    def test_what_was_held_in_vain_is_doubted_and_was_a_load(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        for models in (("b.pt",), ("a.pt",)):
            claim = claimed(ledger, instance.name, models=models, shape="s")
            ledger.claims.fail(claim, ERROR)
        teacher.tell(replace(claim, load_s=0.0), instance, 4.0)
        teacher.tell(replace(claim, load_s=0.0, models=("b.pt",), shape="t"), instance, 4.0)
        teacher.tell(replace(claim, load_s=0.0, run_s=4.0, cold_load_s=10.0), instance, 15.0)
        assert learned(ledger)["shape:s"] == 4.0
        assert learned(ledger)[load_subject(model_set_of(("a.pt",)))] == 11.0

    def test_what_runs_right_behind_its_own_models_loads_nothing_however_long_it_takes(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord, watch: Stopwatch
    ) -> None:
        """A model that takes ten times as long as learned: taken for loads, its runs would never be learned."""
        claim = replace(claimed(ledger, shape="s", models=("a.pt",)), load_s=0.0, run_s=4.0, cold_load_s=10.0)
        for seconds in (4.0, *[40.0] * 6):
            watch.now_s += PAUSE_S
            teacher.tell(claim, instance, seconds)
        models = model_set_of(("a.pt",))
        assert learned(ledger)[run_subject(models)] == learned(ledger)["shape:s"] > 30.0
        assert load_subject(models) not in learned(ledger)

    def test_not_more_often_than_now_and_then_of_each_shape(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord, watch: Stopwatch
    ) -> None:
        first, other = claimed(ledger, shape="s"), claimed(ledger, "gpu1@here", shape="t")
        for step_s in (0.0, 0.25, PAUSE_S - 0.5):
            watch.now_s += step_s
            teacher.tell(first, instance, 1.0 + step_s)
            teacher.tell(other, instance, 1.0 + step_s)
        assert (learned(ledger)["shape:s"], learned(ledger)["shape:t"]) == (1.0, 1.0)
        watch.now_s += 0.25
        teacher.tell(first, instance, 3.0)
        assert learned(ledger)["shape:s"] == 2.0

    def test_what_is_not_known_is_not_told(self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord) -> None:
        claim = claimed(ledger, shape="s")
        teacher.tell(claim, instance, None)
        assert learned(ledger) == {}
        teacher.tell(claim, instance, 0.0)
        assert learned(ledger)["shape:s"] == 0.0

    def test_templates_of_no_shape_are_kept_apart(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord
    ) -> None:
        for template in ("a", "b"):
            teacher.tell(claimed(ledger, template=template), instance, 1.0)
        assert {"workflow:a", "workflow:b"} <= learned(ledger).keys()

    def test_a_ledger_that_is_away_is_not_told(
        self, ledger: Ledger, teacher: Teacher, instance: InstanceRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = claimed(ledger)

        def away(*_: Any, **__: Any) -> None:
            raise LedgerUnavailable("away")

        monkeypatch.setattr(ledger.durations, "learn_all", away)
        monkeypatch.setattr(ledger.instances, "doubt_models", away)
        teacher.tell(replace(claim, run_s=1.0, cold_load_s=5.0), instance, 9.0)

    def test_it_remembers_no_more_than_so_many(self, ledger: Ledger, watch: Stopwatch) -> None:
        teacher = Teacher(ledger)
        found = [teacher._was_told_lately(str(number)) for number in range(KEPT + 1)]
        assert not any(found)
        assert len(teacher._told_at_s) == KEPT
        assert teacher._was_told_lately("1")
        assert not teacher._was_told_lately("0"), "the first was forgotten"

    def test_the_least_recently_told_is_forgotten_first(self, ledger: Ledger, watch: Stopwatch) -> None:
        teacher = Teacher(ledger)
        teacher._was_told_lately("again")
        for number in range(KEPT - 1):
            teacher._was_told_lately(str(number))
        watch.now_s += PAUSE_S
        assert not teacher._was_told_lately("again")
        teacher._was_told_lately("new")
        assert teacher._was_told_lately("again")


class TestGpuSeconds:
    def test_by_comfyuis_own_clock(self) -> None:
        assert gpu_seconds(result_of("p", started_at_ms=1_000, finished_at_ms=3_500), GRAPH) == 2.5
        assert gpu_seconds(result_of("p", started_at_ms=3_000, finished_at_ms=1_000), GRAPH) == 0

    @pytest.mark.parametrize("missing", ["started_at_ms", "finished_at_ms"])
    def test_not_when_it_did_not_say(self, missing: str) -> None:
        assert gpu_seconds(result_of("p", **{missing: None}), GRAPH) is None

    def test_not_when_only_last_nodes_ran(self) -> None:
        assert gpu_seconds(result_of("p", cached_nodes=("1",)), GRAPH) is None

    def test_a_cached_node_among_others_that_ran_is_no_matter(self) -> None:
        longer = {**GRAPH, "3": {"class_type": "Blur", "inputs": {"image": ["1", 0]}}}
        longer["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}}
        assert gpu_seconds(result_of("p", cached_nodes=("1",)), longer) == 1.0
        assert gpu_seconds(result_of("p", cached_nodes=("1", "3")), longer) is None


class TestLoads:
    """What is learned of model sets: `models:` is what runs take where they are held, `load:` what comes on top."""

    RUN, LOAD = run_subject(model_set_of(["sdxl"])), load_subject(model_set_of(["sdxl"]))

    def known(self, ledger: Ledger, *lessons: tuple[float, float]) -> dict[str, float]:
        """What is known after runs, of each its expected load and the seconds it took."""
        instance = come_up(ledger, device="RTX")
        for load_s, seconds in lessons:
            claim = replace(claimed(ledger, models=("sdxl",)), load_s=load_s)
            Teacher(ledger).tell(claim, instance, seconds)
        return ledger.durations.known([self.RUN, self.LOAD], gpu="RTX")

    def test_a_run_with_its_load_is_not_taken_for_a_run(self, ledger: Ledger) -> None:
        assert self.known(ledger, (10.0, 19.0), (10.0, 19.0)) == {}

    def test_a_load_is_what_a_run_takes_longer_than_those_that_loaded_nothing(self, ledger: Ledger) -> None:
        assert self.known(ledger, (10.0, 19.0), (0.0, 4.0), (10.0, 19.0)) == {self.RUN: 4.0, self.LOAD: 15.0}
