"""How long jobs wait where GPUs have to load models: the whole product, beside other rules on the same trace.

    python -m bench.models [--quick] [--offered 0.5 0.7 0.9] [--jobs 900] [--scale 4] [--seeds 1 2 3]

API, ledger, broker, io worker and 8 GPU workers with simulators of which each holds one of 6 models; a load takes 15 s.
All simulated time passes `--scale` times faster, what the product itself takes does not: a busy machine counts that
many times. First every model is run and loaded, so that what it takes is learned. Then each trace is played, and what
became of its jobs is read from the ledger. The other rules cannot run in the product: they are simulated
(`bench.policy`), and so is ours, to tell the rule from what the product adds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import requests
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import select

from bench.policy import Waits
from bench.report import Report
from bench.scheduling.rules import OURS, RULES, NamedRule
from core.ledger import Ledger
from core.ledger.database.learned_tables import durations
from core.ledger.database.tables import jobs
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.settings import Settings
from tests.fleet import Fleet
from tests.scheduling_simulation import Simulation, trace
from tests.services import find_postgres
from tests.simulated_fleet import SimulatedJob
from tests.waiting import until

GPUS, MODELS = 8, 6
LOAD_S: Final = 15.0
#: The simulator moves what it has read on to the GPU, which takes a tenth of the reading.
READ_S: Final = LOAD_S / 1.1
STEP_S: Final = 0.25
#: How much longer than in the simulation jobs may wait.
SLACK, GOAL_FORECAST = 1.2, 0.25
#: Each model runs so often before a trace, in so many seconds.
TURNS, LEARNING_S = 3, 300.0
#: Jobs that come before this are not counted: the fleet begins with nothing to do.
BEGIN_S = 60.0
#: A forecast of less than this is not judged by its share.
SHORT_S = 1.0
#: Mean, p95 and maximum until a job is taken, in long traces: what the rule was chosen by.
TABLE: Final = {0.5: (2.0, 9.4, 24.0), 0.7: (7.9, 22.0, 31.0), 0.9: (26.0, 42.0, 66.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What became of a trace; simulated seconds."""

    done_per_s: float
    until_taken: Waits
    until_begun: Waits
    loaded_share: float

    def __str__(self) -> str:
        waits = f"begun {self.until_begun}  taken {self.until_taken}"
        return f"{self.done_per_s:.2f}/s  {waits}  {self.loaded_share:.0%} loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One job of a trace: moments in simulated seconds since the trace began."""

    job: SimulatedJob
    came_s: float
    taken_s: float
    begun_s: float
    ended_s: float
    #: When it was to begin, as the answer to its submission said.
    forecast_s: float | None = None
    is_loaded: bool


def figures_of(played: Sequence[Sequence[Ran]]) -> Figures:
    """Sum up those of some traces that came once the fleet was at work."""
    counted: list[Ran] = []
    took_s = 0.0
    for ran in played:
        late = [each for each in ran if each.job.at_s >= BEGIN_S] or list(ran)
        took_s += max(each.ended_s for each in ran) - min(each.came_s for each in late)
        counted += late
    return Figures(
        done_per_s=len(counted) / took_s,
        until_taken=Waits.of([max(0.0, each.taken_s - each.came_s) for each in counted]),
        until_begun=Waits.of([max(0.0, each.begun_s - each.came_s) for each in counted]),
        loaded_share=statistics.mean(each.is_loaded for each in counted),
    )


def learning() -> list[SimulatedJob]:
    """What comes before a trace: each model a few times, so that what it takes is known. It leaves models resident."""
    return [
        SimulatedJob(at_s=LEARNING_S * (turn / TURNS - 1), models=f"model{model}", run_s=4.0, expected_s=4.0)
        for turn in range(TURNS)
        for model in range(MODELS)
    ]


def simulated(rule: NamedRule, traces: Sequence[Sequence[SimulatedJob]]) -> Figures:
    """The same traces under a rule alone, from the beginning that the product has."""
    return figures_of([_simulated(rule, coming) for coming in traces])


def _simulated(rule: NamedRule, coming: Sequence[SimulatedJob]) -> list[Ran]:
    simulation = Simulation(
        rule.choose,
        gpus=GPUS,
        resident=1,
        load_s=LOAD_S,
        warm_asked_first=rule.warm_asked_first,
        is_uniform=True,
        seed=1,
    )
    return [
        Ran(
            job=each.job,
            came_s=each.job.at_s,
            taken_s=each.taken_s,
            begun_s=each.begun_s,
            ended_s=each.begun_s + each.job.run_s,
            is_loaded=each.begun_s > each.taken_s,
        )
        for each in simulation.run([*learning(), *coming])
        if each.job.at_s >= 0.0
    ]


def graph(models: str, run_s: float, seed: int) -> dict[str, Any]:
    """A text to image workflow that runs for so many simulated seconds, in whole steps, where its model is held."""
    # The decoder takes one step of its own.
    steps = max(1, round(run_s / STEP_S) - 1)
    sampling = {
        "seed": seed,
        "steps": steps,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0]}
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{models}.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["4", 1]}},
        "3": {"class_type": "KSampler", "inputs": {**sampling, **links}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "bench", "images": ["8", 0]}},
    }


class Product:
    """The fleet that is measured."""

    def __init__(self, folder: Path, *, scale: float, database_url: str) -> None:
        self._scale = scale
        models = " ".join(f"--simulate-model checkpoints/model{number}.safetensors=6" for number in range(MODELS))
        arguments = f"--simulate-speed {scale:g} --simulate-load-seconds {READ_S:.3f} --simulate-no-file-cache "
        arguments += f"--simulate-step-seconds {STEP_S:g} --simulate-vram-gb 8 --simulate-ram-gb 8 {models}"
        settings = {"database_url": database_url} if database_url else {}
        self.fleet = Fleet(folder, simulated_gpus=str(GPUS), simulator_args=arguments, model_memory_gb="8", **settings)
        self._ledger = Ledger(Settings(data_dir=self.fleet.data_dir, database_url=database_url))
        self._http = requests.Session()

    def start(self) -> None:
        """Start everything, and wait for 8 healthy GPUs."""
        names = [f"gpu{number}" for number in range(GPUS)]
        self.fleet.start("broker", "api", "io", "beat", *names).ready(gpus=GPUS, timeout_s=300)

    def close(self) -> None:
        """Close what this process has open."""
        self._http.close()
        self._ledger.close()

    def learn(self) -> None:
        """Let what comes before a trace come to its end, turn by turn."""
        for number, job in enumerate(learning()):
            self.submit(job, number)
            if number % MODELS == MODELS - 1:
                self.wait_for_all()

    def submit(self, job: SimulatedJob, seed: int) -> tuple[str, float | None]:
        """Submit a job; returns its id, and in how many simulated seconds it is to begin, if that was said."""
        body = {"workflow": graph(job.models, job.run_s, seed)}
        answer = self._http.post(f"{self.fleet.base_url}/api/v2/jobs", json=body, timeout=60)
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["id"]
        # It may have begun already.
        told = self._http.get(f"{self.fleet.base_url}/api/v2/jobs/{job_id}", timeout=60).json()
        starts_in_s = (told.get("queue") or {}).get("starts_in_s")
        return job_id, None if starts_in_s is None else starts_in_s * self._scale

    def play(self, coming: Sequence[SimulatedJob], progress: Progress) -> list[Ran]:
        """Submit each job in its time, wait for the last, and return what became of them."""
        bar = progress.add_task(f"{len(coming)} jobs", total=2 * len(coming))
        told: list[tuple[str, float | None]] = []
        began_s = time.time()
        with self._watched(progress, bar, told):
            for number, job in enumerate(coming):
                time.sleep(max(0.0, began_s + job.at_s / self._scale - time.time()))
                told.append(self.submit(job, 1_000 + number))
            self.wait_for_all()
        return self._read(coming, told, began_s)

    @contextlib.contextmanager
    def _watched(self, progress: Progress, bar: Any, told: Sequence[object]) -> Iterator[None]:
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(1.0):
                waiting = self._ledger.jobs.count("queued") + self._ledger.jobs.count("running")
                progress.update(bar, completed=2 * len(told) - waiting)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            progress.update(bar, completed=2 * len(told))

    def learned(self) -> str:
        """What the fleet has learned of runs and loads: from the least to the most, in simulated seconds."""
        names = [f"model{number}.safetensors" for number in range(MODELS)]
        words = []
        for what, subject in (("runs", run_subject), ("loads", load_subject)):
            wanted = durations.c.what.in_([subject(model_set_of([name])) for name in names])
            with self._ledger.database.read() as connection:
                found = [
                    each * self._scale
                    for each in connection.execute(select(durations.c.average_s).where(wanted)).scalars()
                ]
            words.append(f"{what} {min(found):.1f} to {max(found):.1f} s" if found else f"{what} unknown")
        return ", ".join(words)

    def wait_for_all(self) -> None:
        """Wait until nothing waits or runs."""
        open_ones = ("queued", "running", "canceling", "delivering")
        until(
            lambda: not any(self._ledger.jobs.count(status) for status in open_ones),  # type: ignore[arg-type]
            timeout_s=1800,
            what="the end of all jobs",
        )

    def _read(
        self, coming: Sequence[SimulatedJob], told: Sequence[tuple[str, float | None]], began_s: float
    ) -> list[Ran]:
        columns = (jobs.c.id, jobs.c.status, jobs.c.created_at_ms, jobs.c.started_at_ms, jobs.c.generated_at_ms)
        with self._ledger.database.read() as connection:
            rows: Mapping[str, Any] = {row.id: row for row in connection.execute(select(*columns))}
        ran = []
        for job, (job_id, starts_in_s) in zip(coming, told, strict=True):
            row = rows[job_id]
            assert row.status == "succeeded", (job_id, row.status)
            came_s, taken_s, ended_s = (
                (at_ms / 1000 - began_s) * self._scale
                for at_ms in (row.created_at_ms, row.started_at_ms, row.generated_at_ms)
            )
            # Its own work takes what the graph says; what was before that is waiting, whatever for.
            begun_s = max(taken_s, ended_s - job.run_s)
            ran.append(
                Ran(
                    job=job,
                    came_s=came_s,
                    taken_s=taken_s,
                    begun_s=begun_s,
                    ended_s=ended_s,
                    forecast_s=None if starts_in_s is None else came_s + starts_in_s,
                    is_loaded=begun_s - taken_s > LOAD_S / 2,
                )
            )
        return ran


def report_forecast(report: Report, name: str, ran: Sequence[Ran]) -> None:
    """How far the moment that a submission was told was from the one at which its job began."""
    told = [
        (each.forecast_s - each.came_s, each.begun_s - each.came_s)
        for each in ran
        if each.forecast_s is not None and each.job.at_s >= BEGIN_S
    ]
    if not told:
        report.line(f"{name}, starts_in_s", "nothing waited")
        return
    shares = [abs(said_s - was_s) / was_s for said_s, was_s in told if was_s >= SHORT_S]
    missed_s = statistics.median(abs(said_s - was_s) for said_s, was_s in told)
    if not shares:
        report.line(f"{name}, starts_in_s", f"off by {missed_s:.1f} s in the median; nobody waited {SHORT_S:g} s")
        return
    median = statistics.median(shares)
    text = f"median error {median:.0%} of {len(shares)} jobs that waited {SHORT_S:g} s or more, {missed_s:.1f} s of all"
    report.line(f"{name}, starts_in_s", text, goal=f"under {GOAL_FORECAST:.0%}", met=median < GOAL_FORECAST)


def report_waits(report: Report, offered: float, product: Figures, traces: Sequence[Sequence[SimulatedJob]]) -> None:
    """The product beside the rules, on the same traces."""
    name = f"offered {offered:g}"
    by_rule = {rule.name: simulated(rule, traces) for rule in RULES}
    for rule, figures in by_rule.items():
        report.line(f"{name}, simulated: {rule}", str(figures))
    ours = by_rule[OURS.name]
    met = (
        product.until_begun.mean_s <= SLACK * ours.until_begun.mean_s and product.done_per_s >= ours.done_per_s / SLACK
    )
    goal = f"done/s and mean wait within {SLACK - 1:.0%} of the rule alone"
    report.line(f"{name}, the product", str(product), goal=goal, met=met)
    if offered in TABLE:
        mean_s, p95_s, max_s = TABLE[offered]
        is_s = product.until_taken
        text = f"{is_s.mean_s / mean_s:.2f}, {is_s.p95_s / p95_s:.2f}, {is_s.max_s / max_s:.2f} of {TABLE[offered]}"
        report.line(f"{name}, taken, of long traces", text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one load offered, a minute of trace")
    parser.add_argument("--offered", type=float, nargs="+", default=[0.5, 0.7, 0.9], metavar="SHARE")
    parser.add_argument("--jobs", type=int, default=900, help="of each trace")
    parser.add_argument("--scale", type=float, default=4.0, help="how much faster simulated time passes")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="of the traces")
    parser.add_argument("--json", type=Path, help="write what became of each job into this file")
    asked = parser.parse_args()
    if asked.quick:
        asked.offered, asked.jobs = asked.offered[-1:] if asked.offered != [0.5, 0.7, 0.9] else [0.7], 150
    report = Report("bench.models")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with contextlib.ExitStack() as stack:
        url = ""
        if asked.database == "postgresql":
            postgres = find_postgres()
            url = postgres.create()
            stack.callback(postgres.drop, url)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="comfyline-bench-"))
        product = Product(Path(folder), scale=asked.scale, database_url=url)
        stack.callback(product.close)
        stack.enter_context(product.fleet)
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        starting = progress.add_task(f"starting {GPUS} GPUs", total=1)
        product.start()
        progress.update(starting, completed=1)
        learning = progress.add_task(f"learning {MODELS} models", total=1)
        product.learn()
        progress.update(learning, completed=1)
        report.line("learned at first", product.learned())
        for offered in asked.offered:
            traces = [
                trace(jobs=asked.jobs, gpus=GPUS, models=MODELS, offered=offered, seed=seed) for seed in asked.seeds
            ]
            played: list[list[Ran]] = []
            load_before = os.getloadavg()[0]
            for coming in traces:
                try:
                    played.append(product.play(coming, progress))
                except (requests.RequestException, AssertionError):
                    # What it said last is all that is left of it.
                    print(product.fleet.log("api")[-3000:], file=sys.stderr)
                    raise
            ran = [each for of_trace in played for each in of_trace]
            if asked.json:
                asked.json.write_text(json.dumps([asdict(each) for each in ran], indent=1) + "\n", encoding="utf-8")
            name = f"offered {offered:g}"
            many = f" of each of {len(traces)} traces" if len(traces) > 1 else ""
            report.line(name, f"{asked.jobs} jobs{many}, {asked.scale:g} times faster, {asked.database}")
            report.line(f"{name}, load of the machine", f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} after")
            report.line(f"{name}, learned by then", product.learned())
            report_waits(report, offered, figures_of(played), traces)
            report_forecast(report, name, ran)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
