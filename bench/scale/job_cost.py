"""What a job costs on 10 to 300 GPUs: 20,000 jobs, PostgreSQL and RabbitMQ, everything on this machine.

    python -m bench.scale.job_cost [--gpus 10 100 300] [--jobs 20000] [--broker redis] [--page FILE] [--draw FILE]

The GPUs are light ones: GPU workers as they are, but for Celery and ComfyUI. Counted is what the servers have done,
which does not depend on what else the machine does; processor time depends on it a little. The largest fleet gets all
jobs, the others as many as they do in five minutes, so that the beginning, in which GPUs are cold, weighs little in
all of them. The table of docs/scale.md is printed, and with --page written there.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.report import Report
from bench.scale.cost_drawing import picture
from bench.scale.cost_table import table, with_table
from bench.scale.fleet_costs import Costs, Work, costs_of

#: A job of the largest fleet may cost so much more than one of the smallest.
GOAL = 1.15
#: What has to stay flat.
FLAT = ("transactions", "messages in", "messages out", "broker bytes", "commands")
#: Smaller fleets are measured for so long.
SMALL_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--run-s", type=float, default=10.0)
    parser.add_argument("--idle-s", type=float, default=20.0)
    parser.add_argument("--single", type=int, default=40)
    parser.add_argument("--broker", choices=("rabbitmq", "redis"), default="rabbitmq")
    parser.add_argument("--page", type=Path, help="whose table is written anew, such as docs/scale.md")
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--json", type=Path, help="where all figures go")
    asked = parser.parse_args()
    # Whoever is told to end takes all that he has started with him.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    report = Report("bench.scale.job_cost")
    found: list[Costs] = []
    for gpus in sorted(asked.gpus):
        jobs = asked.jobs if gpus == max(asked.gpus) else min(asked.jobs, round(gpus * SMALL_S / asked.run_s))
        work = Work(
            gpus=gpus,
            broker=asked.broker,
            idle_s=asked.idle_s,
            single=asked.single,
            # Half of the GPUs stay idle.
            pause_s=max(0.2, 2 * asked.run_s / gpus),
            jobs=jobs,
            run_s=asked.run_s,
        )
        report.progress(f"{jobs:,} jobs on {gpus} GPUs")
        with tempfile.TemporaryDirectory(prefix="comfyline-bench-") as folder:
            found.append(costs_of(work, Path(folder)))
        if asked.json is not None:
            asked.json.write_text(json.dumps([asdict(each) for each in found], indent=1))
    tell(report, found)
    print(table(found))
    if asked.page is not None:
        asked.page.write_text(with_table(asked.page.read_text(encoding="utf-8"), found), encoding="utf-8")
    if asked.draw is not None:
        asked.draw.write_text(picture(found))
    return report.print()


def tell(report: Report, found: list[Costs]) -> None:
    """Write down what was measured."""
    names = [each.work.gpus for each in found]
    report.line("GPUs", ", ".join(map(str, names)))
    report.line("jobs", ", ".join(f"{each.work.jobs:,} in {each.took_s:.0f} s" for each in found))
    report.line("connections of the ledger", ", ".join(str(each.connections) for each in found))
    for what in found[0].full:
        least, most = found[0].full[what], found[-1].full[what]
        is_held = what in FLAT
        goal = f"at most {GOAL} times that of {names[0]} GPUs" if is_held else None
        values = ", ".join(f"{each.full[what]:,.3g}" for each in found)
        report.line(f"a job of many: {what}", values, goal=goal, met=not is_held or most <= GOAL * least)
        report.line(f"  with all beside it: {what}", ", ".join(f"{each.whole[what]:,.3g}" for each in found))
        report.line(f"a job by itself: {what}", ", ".join(f"{each.single[what]:,.3g}" for each in found))
        idle = ", ".join(f"{each.idle[what] / each.work.gpus:,.3g}" for each in found)
        report.line(f"an idle GPU, a second: {what}", idle)


if __name__ == "__main__":
    sys.exit(main())
