"""How long jobs wait, and how many GPU hours are paid for, when a fleet is scaled by our figures and by queue length.

    python -m bench.scheduling.autoscale [--quick] [--seeds 1,2,3] [--picture docs/autoscaling-day.svg]

One day in simulated time: no load at night, a curve by day, four batches at once; 0 to 200 GPUs, 90 s from the order to
the first job, 60 s of idle window. All rules see the same jobs. Waits are counted until a job's own work begins, GPU
hours from the order until the GPU is gone. No process is started, no service needed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.report import Report
from bench.scheduling.day import DAY_S, MOST, Arrival, Day, Ours, Outcome, QueueLength, Rule, arrivals
from bench.scheduling.day_drawing import DayCurve, picture

#: The height of the curve: four fifths of it are reached.
PEAK: Final = 150.0
RULES: Final[Sequence[Callable[[], Rule]]] = (
    lambda: Ours(30.0),
    lambda: Ours(60.0),
    lambda: Ours(120.0),
    lambda: QueueLength(1.0),
    lambda: QueueLength(2.0),
    lambda: QueueLength(5.0),
    lambda: QueueLength(20.0),
)
#: The rules that are drawn: ours, and two of queue length.
DRAWN: Final = (0, 4, 5)
#: Ours is to be better in both than this one.
BEATEN: Final = 4
HALF_HOUR_S: Final = 1_800.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the load")
    parser.add_argument("--seeds", default="1,2,3", help="of the days, separated by commas")
    parser.add_argument("--picture", type=Path, help="write the first day to this file, as an SVG")
    options = parser.parse_args()
    peak = PEAK / 10 if options.quick else PEAK
    report = Report("bench.scheduling.autoscale")
    days = {int(seed): arrivals(peak=peak, seed=int(seed)) for seed in options.seeds.split(",")}
    outcomes: list[list[Outcome]] = []
    for make in RULES:
        found = []
        for seed, jobs in days.items():
            report.progress(f"{make().name}, day {seed}, {len(jobs)} jobs")
            found.append(Day(jobs, make()).run())
        outcomes.append(found)
    ours, beaten = outcomes[0], outcomes[BEATEN]
    is_better = _p95(ours) < _p95(beaten) and _hours(ours) < _hours(beaten)
    report.line(ours[0].rule, _figures(ours), goal=f"shorter p95, fewer hours than {beaten[0].rule}", met=is_better)
    for found in outcomes[1:]:
        report.line(found[0].rule, _figures(found))
    if options.picture:
        curves = [_curve(outcomes[number][0]) for number in DRAWN]
        options.picture.write_text(picture(curves, _offered(next(iter(days.values()))), MOST), encoding="utf-8")
    return report.print()


def _p95(days: Sequence[Outcome]) -> float:
    return statistics.mean(_at(day, 0.95) for day in days)


def _hours(days: Sequence[Outcome]) -> float:
    return statistics.mean(day.gpu_hours for day in days)


def _figures(days: Sequence[Outcome]) -> str:
    p50, most = statistics.mean(_at(day, 0.5) for day in days), statistics.mean(_at(day, 1.0) for day in days)
    mean = statistics.mean(statistics.mean(wait for _, wait in day.waits) for day in days)
    starts = statistics.mean(day.starts for day in days)
    gpus = max(day.most for day in days)
    return (
        f"waits mean {mean:>5.1f} p50 {p50:>5.1f} p95 {_p95(days):>6.1f} max {most:>5.0f} s   "
        f"{_hours(days):>6,.0f} GPU hours, {starts:>6,.0f} starts, at most {gpus} GPUs"
    )


def _at(day: Outcome, share: float) -> float:
    ordered = sorted(wait for _, wait in day.waits)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _curve(day: Outcome) -> DayCurve:
    slots: list[list[float]] = [[] for _ in range(int(DAY_S / HALF_HOUR_S))]
    for came_s, wait_s in day.waits:
        slots[int(came_s / HALF_HOUR_S)].append(wait_s)
    p95_s = [sorted(slot)[int(0.95 * len(slot))] if slot else 0.0 for slot in slots]
    return DayCurve(name=day.rule, gpus=day.gpus, p95_s=p95_s)


def _offered(jobs: Sequence[Arrival]) -> list[float]:
    """Return how many GPUs the work of each quarter of an hour would have kept busy."""
    slots = [0.0] * int(DAY_S / 900)
    for job in jobs:
        slots[int(job.at_s / 900)] += job.run_s
    return [work_s / 900 for work_s in slots]


if __name__ == "__main__":
    sys.exit(main())
