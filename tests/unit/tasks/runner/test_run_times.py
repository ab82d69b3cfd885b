"""What is learned of durations: on this instance for looking ahead, and in the ledger for everybody."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from tasks.runner import run_times
from tasks.runner.run_times import KEPT, PAUSE_S, Durations, Teacher, gpu_seconds
from tests.ledger_moves import claimed
from tests.makers import GRAPH, Stopwatch, come_up, result_of


@dataclass
class Pupil:
    """Stands for the ledger's durations."""

    learned: list[dict[str, Any]] = field(default_factory=list)
    is_away: bool = False

    def learn(self, **lesson: Any) -> None:
        if self.is_away:
            raise LedgerUnavailable("away")
        self.learned.append(lesson)


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
    def test_the_ledger_is_told(self, ledger: Ledger, watch: Stopwatch) -> None:
        pupil = Pupil()
        claim = claimed(ledger, shape="s", template="w")
        Teacher(pupil).tell(claim, come_up(ledger, device="RTX"), 3.5)  # type: ignore[arg-type]
        assert pupil.learned == [{"shape": "s", "template": "w", "gpu": "RTX", "seconds": 3.5}]

    def test_not_more_often_than_now_and_then_of_each_shape(self, ledger: Ledger, watch: Stopwatch) -> None:
        pupil = Pupil()
        teacher, instance = Teacher(pupil), come_up(ledger)  # type: ignore[arg-type]
        first, other = claimed(ledger, shape="s"), claimed(ledger, "gpu1@here", shape="t")
        for step_s in (0.0, 0.25, PAUSE_S - 0.5):
            watch.now_s += step_s
            teacher.tell(first, instance, 1.0)
            teacher.tell(other, instance, 1.0)
        assert [lesson["shape"] for lesson in pupil.learned] == ["s", "t"]
        watch.now_s += 0.25
        teacher.tell(first, instance, 1.0)
        assert len(pupil.learned) == 3

    def test_what_is_not_known_is_not_told(self, ledger: Ledger, watch: Stopwatch) -> None:
        pupil = Pupil()
        teacher, claim, instance = Teacher(pupil), claimed(ledger), come_up(ledger)  # type: ignore[arg-type]
        teacher.tell(claim, instance, None)
        teacher.tell(claim, instance, 0.0)
        assert [lesson["seconds"] for lesson in pupil.learned] == [0.0]

    def test_templates_of_no_shape_are_kept_apart(self, ledger: Ledger, watch: Stopwatch) -> None:
        pupil = Pupil()
        teacher, instance = Teacher(pupil), come_up(ledger)  # type: ignore[arg-type]
        for template in ("a", "b"):
            teacher.tell(claimed(ledger, template=template), instance, 1.0)
        assert [lesson["template"] for lesson in pupil.learned] == ["a", "b"]

    def test_a_ledger_that_is_away_is_not_told(self, ledger: Ledger, watch: Stopwatch) -> None:
        Teacher(Pupil(is_away=True)).tell(claimed(ledger), come_up(ledger), 1.0)  # type: ignore[arg-type]

    def test_it_remembers_no_more_than_so_many(self, ledger: Ledger, watch: Stopwatch) -> None:
        teacher = Teacher(Pupil())  # type: ignore[arg-type]
        found = [teacher._was_told_lately(str(number)) for number in range(KEPT + 1)]
        assert not any(found)
        assert len(teacher._told_at_s) == KEPT
        assert teacher._was_told_lately("1")
        assert not teacher._was_told_lately("0"), "the first was forgotten"

    def test_the_least_recently_told_is_forgotten_first(self, watch: Stopwatch) -> None:
        teacher = Teacher(Pupil())  # type: ignore[arg-type]
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
