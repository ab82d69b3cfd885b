"""How long jobs take: averages that follow the newest, what they make us expect, and when they are forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import event, insert, select

from core.ledger import Ledger
from core.ledger import durations as module
from core.ledger.database.learned_tables import durations
from core.ledger.durations import Averages, gpu_kind, subjects
from tests.makers import StoppedClock

#: For so long an average is kept that nothing was learned for.
KEPT_MS = 90 * 86_400_000
GPU = "RTX 4090"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a duration depends on."""

    shape: str | None = None
    template: str | None = None
    expected_time_s: float | None = None


def learn(ledger: Ledger, seconds: float, shape: str | None = "s", template: str | None = None, gpu: str = GPU) -> None:
    ledger.durations.learn(shape=shape, template=template, gpu=gpu, seconds=seconds)


def rows(ledger: Ledger) -> dict[tuple[str, str], Any]:
    with ledger.database.read() as connection:
        return {(row.what, row.gpu): row for row in connection.execute(select(durations))}


def average_s(ledger: Ledger, gpu: str = GPU) -> float:
    return float(rows(ledger)["shape:s", gpu].average_s)


def keep(ledger: Ledger, clock: StoppedClock, count: int) -> None:
    """Averages of so many shapes, each a moment older than the one before."""
    values = [
        {"what": f"shape:{age}", "gpu": GPU, "average_s": 1.0, "seen": 1, "updated_at_ms": clock.now_ms - age}
        for age in range(count)
    ]
    with ledger.database.write() as transaction:
        transaction.connection.execute(insert(durations), values)


class TestLearning:
    def test_the_first_are_averaged_and_then_the_newest_weighs_a_tenth(self, ledger: Ledger) -> None:
        first = [(10.0, 10.0), (20.0, 15.0), (30.0, 20.0), (40.0, 25.0), (25.0, 25.0), (25.0, 25.0), (25.0, 25.0)]
        later = [(25.0, 25.0), (34.0, 26.0), (16.0, 25.0), (35.0, 26.0), (26.0, 26.0), (16.0, 25.0)]
        for seconds, expected_s in (*first, *later):
            learn(ledger, seconds)
            assert average_s(ledger) == pytest.approx(expected_s)
        assert rows(ledger)["shape:s", GPU].seen == len(first) + len(later)

    def test_by_shape_and_by_template_and_by_gpu(self, ledger: Ledger, clock: StoppedClock) -> None:
        learn(ledger, 1.0, "s", "t")
        clock.pass_ms(7)
        learn(ledger, 3.0, "s", None, "L4")
        learn(ledger, 5.0, "u", "t")
        found = {key: (row.average_s, row.seen, row.updated_at_ms) for key, row in rows(ledger).items()}
        assert found == {
            ("shape:s", GPU): (1.0, 1, clock.now_ms - 7),
            ("workflow:t", GPU): (3.0, 2, clock.now_ms),
            ("shape:s", "L4"): (3.0, 1, clock.now_ms),
            ("shape:u", GPU): (5.0, 1, clock.now_ms),
        }

    def test_a_job_that_is_known_by_nothing_teaches_nothing(self, ledger: Ledger) -> None:
        learn(ledger, 1.0, None)
        learn(ledger, 1.0, "", "")
        assert rows(ledger) == {}

    def test_the_most_telling_first(self) -> None:
        assert subjects(Work(shape="s", template="t")) == ["shape:s", "workflow:t"]
        assert subjects(Work(template="t")) == ["workflow:t"]

    @pytest.mark.parametrize(
        ("device", "kind"), [("RTX", "RTX"), (None, "comfyui"), ("", "comfyui"), ("x" * 256, "x" * 255)]
    )
    def test_gpus_of_one_kind(self, device: str | None, kind: str) -> None:
        assert gpu_kind(device, "comfyui") == kind


class TestExpectation:
    KNOWN = Averages({"shape:s": {"A": 10.0, "B": 20.0}, "workflow:t": {"A": 40.0}, "shape:empty": {}})

    @pytest.mark.parametrize(
        ("job", "gpus", "expected_s"),
        [
            (Work(shape="s", template="t", expected_time_s=1.0), ["A"], 10.0),
            (Work(shape="s"), ["A", "A", "B"], 40 / 3),
            (Work(shape="s"), ["A", "C"], 10.0),
            (Work(shape="s"), ["C"], 15.0),
            (Work(shape="s"), [], 15.0),
            (Work(shape="x", template="t", expected_time_s=1.0), ["B"], 40.0),
            (Work(shape="empty", template="t"), ["A"], 40.0),
            (Work(shape="x", expected_time_s=0.0), ["A"], 0.0),
            (Work(shape="x"), ["A"], 46.0),
        ],
    )
    def test_what_is_known_best(self, job: Work, gpus: list[str], expected_s: float) -> None:
        assert self.KNOWN.expect(job, iter(gpus)) == pytest.approx(expected_s)

    def test_of_one_job(self, ledger: Ledger) -> None:
        learn(ledger, 3.0)
        learn(ledger, 5.0, gpu="L4")
        learn(ledger, 99.0, "other")
        assert ledger.durations.expect(Work(shape="s"), ["L4"]) == 5.0
        assert ledger.durations.expect(Work(shape="s"), []) == 4.0

    def test_of_more_than_one_query_takes(self, ledger: Ledger) -> None:
        names = [f"{number:04}" for number in range(1001)]
        values = [
            {"what": f"shape:{name}", "gpu": GPU, "average_s": float(name), "seen": 1, "updated_at_ms": 1}
            for name in names
        ]
        with ledger.database.write() as transaction:
            transaction.connection.execute(insert(durations), values)
        asked: list[int] = []

        @event.listens_for(ledger.database.engine, "before_cursor_execute")
        def _count(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_more: Any) -> None:
            asked.append(len(parameters))

        averages = ledger.durations.averages([Work(shape=name) for name in names])
        assert asked == [500, 500, 1]
        assert [averages.expect(Work(shape=name), [GPU]) for name in names] == [float(name) for name in names]


class TestForgetting:
    def test_what_nobody_touched_for_long(self, ledger: Ledger, clock: StoppedClock) -> None:
        ledger.durations.forget()
        learn(ledger, 1.0)
        clock.pass_ms(1)
        learn(ledger, 1.0, "younger")
        clock.pass_ms(KEPT_MS - 2)
        ledger.durations.forget()
        assert len(rows(ledger)) == 2
        clock.pass_ms(1)
        ledger.durations.forget()
        assert set(rows(ledger)) == {("shape:younger", GPU)}

    def test_never_more_than_ten_thousand(self, ledger: Ledger, clock: StoppedClock) -> None:
        keep(ledger, clock, 10_001)
        ledger.durations.forget()
        assert len(rows(ledger)) == 10_000

    @pytest.mark.parametrize(("count", "left"), [(3, [0, 1, 2]), (4, [0, 1, 2]), (6, [0, 1, 2])])
    def test_the_oldest_of_too_many(
        self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch, count: int, left: list[int]
    ) -> None:
        monkeypatch.setattr(module, "KEPT", 3)
        keep(ledger, clock, count)
        ledger.durations.forget()
        assert sorted(rows(ledger)) == [(f"shape:{age}", GPU) for age in left]
