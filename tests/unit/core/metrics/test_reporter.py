"""What a process has counted gets into the ledger once, however often the ledger is away meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from core.errors import LedgerUnavailable
from core.metrics.family import counter
from core.metrics.reporter import MetricReporter
from core.metrics.tally import Tally

THINGS = counter("x_total", "Things.")
SAMPLE = "x_total\t"


class Taker:
    """A ledger that may be away, or take a report and not say so."""

    def __init__(self) -> None:
        self.reports: dict[str, dict[str, float]] = {}
        self.processes: dict[str, Mapping[str, float]] = {}
        self.is_away = self.is_silent = False

    def report(self, report_id: str, amounts: Mapping[str, float]) -> None:
        if self.is_away:
            raise LedgerUnavailable("away")
        self.reports[report_id] = dict(amounts)
        if self.is_silent:
            raise LedgerUnavailable("silent")

    def note_process(self, process_id: str, *, role: str, host: str, gauges: Mapping[str, float]) -> None:
        self.processes[process_id] = gauges

    def forget_process(self, process_id: str) -> None:
        self.processes.pop(process_id, None)

    @property
    def total(self) -> float:
        return sum(report[SAMPLE] for report in self.reports.values())


def made(taker: Taker, tally: Tally) -> MetricReporter:
    return MetricReporter(taker, role="api", host="here", every_s=60, gauges=lambda: {"clients": 2}, tally=tally)


def test_what_the_ledger_did_not_take_is_kept() -> None:
    taker, tally = Taker(), Tally()
    reporter = made(taker, tally)
    tally.add(THINGS)
    taker.is_away = True
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            reporter.report()
        tally.add(THINGS)

    taker.is_away = False
    reporter.report()
    reporter.report()

    assert taker.total == 3


def test_a_report_of_which_nobody_knows_whether_it_arrived_is_not_counted_twice() -> None:
    taker, tally = Taker(), Tally()
    reporter = made(taker, tally)
    tally.add(THINGS)
    taker.is_silent = True
    with pytest.raises(LedgerUnavailable):
        reporter.report()

    taker.is_silent = False
    reporter.report()

    assert taker.total == 1


def test_nothing_new_is_no_report() -> None:
    taker = Taker()

    made(taker, Tally()).report()

    assert taker.reports == {}


def test_the_end_of_a_process_reports_what_is_left_and_takes_its_leave() -> None:
    taker, tally = Taker(), Tally()
    reporter = made(taker, tally)
    reporter._step()
    assert list(taker.processes.values()) == [{"clients": 2}]

    tally.add(THINGS)
    reporter.close()

    assert taker.total == 1
    assert taker.processes == {}
