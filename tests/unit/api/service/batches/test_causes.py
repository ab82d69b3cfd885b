"""How often a process asks why jobs of a batch failed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from api.http import cached
from api.service.batches.causes import FEW, MOST_KEPT, Causes
from core.ledger import Ledger
from core.records.batch import Batch, ErrorGroup
from core.records.job import EXPIRED, FAILED
from tests.makers import Stopwatch

BATCH = Batch(id="a", created_at_ms=1, counts={FAILED: FEW, EXPIRED: 1})


@dataclass
class Looks:
    """Stands for the ledger and its batches: how often it was asked for the errors of each, which takes 0.2 s."""

    watch: Stopwatch
    asked: list[str] = field(default_factory=list)

    @property
    def batches(self) -> Looks:
        return self

    def errors(self, batch: Batch) -> list[ErrorGroup]:
        self.watch.now_s += 0.2
        self.asked.append(batch.id)
        return [ErrorGroup(code="c", message="m", node_id=None, class_type=None, count=len(self.asked), job_ids=())]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    watch = Stopwatch()
    monkeypatch.setattr(cached, "time", watch)
    return Looks(watch)


def test_few_are_looked_at_each_time(looks: Looks) -> None:
    causes, few = Causes(cast(Ledger, looks)), replace(BATCH, counts={FAILED: FEW})
    assert [causes.of(few)[0].count for _ in range(3)] == [1, 2, 3]


def test_many_are_looked_at_for_a_part_of_the_time(looks: Looks) -> None:
    causes = Causes(cast(Ledger, looks))
    assert [causes.of(BATCH)[0].count for _ in range(3)] == [1, 1, 1]
    looks.watch.now_s += 2.1
    assert causes.of(BATCH)[0].count == 2


def test_each_batch_has_its_own_and_some_are_kept(looks: Looks) -> None:
    causes = Causes(cast(Ledger, looks))
    for number in range(MOST_KEPT + 1):
        causes.of(replace(BATCH, id=str(number)))
    assert looks.asked == [str(number) for number in range(MOST_KEPT + 1)]
    causes.of(replace(BATCH, id=str(MOST_KEPT)))
    assert len(looks.asked) == MOST_KEPT + 1
