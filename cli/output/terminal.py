"""What the command line shows: progress bars and tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from cli.output.text_tables import Heading, print_table, printable
from cli.output.waits import about, describe_place, describe_wait, note_of, reason_code, short_place, why_it_waits
from cli.remote.answers import Job
from cli.remote.download import OnBytes
from cli.remote.sse import SseEvent
from core.log_format import say

#: A plain line is due when progress has moved this far, or the node or the status changed.
PLAIN_STEP = 0.1
COLORS = {"succeeded": "green", "failed": "red", "expired": "red", "canceled": "yellow", "canceling": "yellow"}
#: Columns of a list, and which of them give way on a narrow terminal: higher numbers first.
JOB_COLUMNS = (
    Heading("id"),
    Heading("status"),
    Heading("created (UTC)", gives_way=2),
    Heading("progress", gives_way=1),
    Heading("outputs", gives_way=4),
    Heading("template", gives_way=3),
    Heading("place", gives_way=5),
)
#: For those who see the jobs of several.
TENANT_COLUMN = Heading("tenant", gives_way=3)
#: The tenant of those who have made none.
USUAL_TENANT = "default"
#: Characters of a terminal from which on a bar may be long.
WIDE = 100
#: The same in the words of tasks.
TASK_COLORS = {"completed": "green", "failed": "red", "timeout": "red", "cancelled": "yellow"}


class Screen:
    """Where lines for people go: stdout, or stderr when stdout is kept for JSON."""

    def __init__(self, *, json_on_stdout: bool = False) -> None:
        self.console = Console(stderr=json_on_stdout, highlight=False, markup=False, soft_wrap=True, emoji=False)

    @property
    def is_terminal(self) -> bool:
        return self.console.is_terminal

    def line(self, text: str, style: str = "") -> None:
        """One line, or several."""
        self.console.print(Text(printable(text), style=style))

    def progress(self) -> JobProgress:
        """A display for one job, to be used in a `with`."""
        return JobProgress(self)

    @contextmanager
    def transfer(self, name: str) -> Iterator[OnBytes | None]:
        """A bar for one file on its way, to be used in a `with`: on a terminal, and gone when the file is there."""
        if not self.is_terminal:
            yield None
            return
        bar = _transfer_bar(self.console)
        task = bar.add_task(printable(name), total=None)
        with bar:
            yield lambda received, total: bar.update(task, completed=received, total=total)


class JobProgress:
    """Live progress of one job: status, node, step, percent."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bar = progress_bar(screen.console) if screen.is_terminal else None
        self._task = self._bar.add_task("queued", total=1.0, detail="") if self._bar else None
        self._said: tuple[Any, ...] = ("",)
        self._node = ""
        self._said_value = 0.0

    def __enter__(self) -> JobProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: SseEvent) -> None:
        """Take one event of the job's stream."""
        if event.name == "status":
            self._on_status(str(event.data.get("status")), event.data)
        elif event.name == "progress":
            self._on_progress(event.data)

    def _on_status(self, status: str, data: Mapping[str, Any]) -> None:
        place = describe_wait(data) if status == "queued" else ""
        news = status, data.get("queue_position"), reason_code(data)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=printable(status))
            if status == "queued":
                self._bar.update(self._task, detail=place)
            elif status == "succeeded":
                self._bar.update(self._task, completed=1.0, detail="")
            elif self._said[0] == "queued":
                self._bar.update(self._task, detail="")
        elif news != self._said:
            self._screen.line(f"{status} ({place})" if place else status)
        self._said = news

    def _on_progress(self, data: Mapping[str, Any]) -> None:
        # What comes behind the colon changes with the time alone.
        value, node = float(data.get("value") or 0), note_of(data).partition(":")[0] or str(data.get("current_node"))
        if self._bar is not None and self._task is not None:
            # The end of the line is lost on a narrow terminal: what matters most stands first.
            detail = note_of(data) or ", ".join(filter(None, (_time_left(data), _work(data))))
            self._bar.update(self._task, completed=value, detail=printable(detail))
        elif node != self._node or value - self._said_value >= PLAIN_STEP:
            self._screen.line(f"{value:4.0%}  {describe_progress(data)}")
            self._said_value = value
            self._node = node


def describe_progress(data: Mapping[str, Any]) -> str:
    """For people: `KSampler (node 3), step 9/20, 4 of 7 nodes done, about 12 s left`, or why nothing moves."""
    return note_of(data) or ", ".join(filter(None, (_work(data), _time_left(data))))


def _work(data: Mapping[str, Any]) -> str:
    parts = []
    if data.get("current_node"):
        parts.append(f"{data.get('current_node_class') or 'node'} (node {data['current_node']})")
    if data.get("steps"):
        parts.append(f"step {data.get('step') or 0}/{data['steps']}")
    if data.get("nodes_total"):
        parts.append(f"{data.get('nodes_done') or 0} of {data['nodes_total']} nodes done")
    return ", ".join(parts)


def _time_left(data: Mapping[str, Any]) -> str:
    left_s = data.get("remaining_s")
    return f"about {about(left_s)} left" if isinstance(left_s, (int, float)) else ""


def describe_job(screen: Screen, job: Job) -> None:
    """Everything about one job that a person wants to see."""
    screen.line(f"{job['id']}  {job['status']}", style=COLORS.get(job["status"], ""))
    if job.get("tenant", USUAL_TENANT) != USUAL_TENANT:
        screen.line(f"  tenant     {job['tenant']}")
    for word in ("created_at", "started_at", "completed_at"):
        if job.get(word):
            screen.line(f"  {word.removesuffix('_at'):10} {job[word]}")
    if place := describe_place(job):
        screen.line(f"  waits      {place}")
    if reason := why_it_waits(job):
        screen.line(f"  because    {reason}")
    if job["status"] == "running" and job.get("progress"):
        progress = job["progress"]
        screen.line(f"  progress   {float(progress.get('value') or 0):.0%}  {describe_progress(progress)}")
    describe_attempts(screen, job)
    for output in job.get("outputs") or []:
        screen.line(f"  output     {output.get('name')}  {output.get('content_type')}  {output.get('url')}")
    describe_error(screen, job)


def describe_attempts(screen: Screen, job: Mapping[str, Any]) -> None:
    """Where it runs, or ran last, and where it was lost before."""
    if job.get("instance"):
        gpu = f" ({job['gpu']})" if job.get("gpu") else ""
        screen.line(f"  on         {job['instance']}{gpu}, attempt {job.get('attempt')}")
    spent = job.get("gpu_time")
    if isinstance(spent, Mapping) and spent.get("gpu_s"):
        parts = {"loads": spent.get("load_s"), "lost": spent.get("lost_s")}
        told = "".join(f", {seconds:.1f} s of it {word}" for word, seconds in parts.items() if seconds)
        screen.line(f"  GPU time   {spent['gpu_s']:.1f} s{told}")
    for loss in job.get("losses") or []:
        gpu = f" ({loss['gpu']})" if loss.get("gpu") else ""
        screen.line(f"  lost       {loss.get('code')} on {loss.get('instance')}{gpu} at {loss.get('at')}")


def describe_task(screen: Screen, task: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Everything about one task that a person wants to see."""
    screen.line(f"{task['id']}  {task['status']}", style=TASK_COLORS.get(task["status"], ""))
    if task.get("message"):
        screen.line(f"  message    {task['message']}")
    for path in paths:
        screen.line(f"  file       {path}")


def describe_error(screen: Screen, job: Job) -> None:
    """Why a job failed: node, class, message, and ComfyUI's traceback."""
    error = job.get("error")
    if not error:
        return
    where = f" in {error.get('class_type') or 'node'} (node {error['node_id']})" if error.get("node_id") else ""
    screen.line(f"  error      {error.get('code')}{where}: {error.get('message')}", style="red")
    if error.get("traceback"):
        screen.line(str(error["traceback"]).rstrip(), style="dim")


def describe_refusal(screen: Screen, details: Any) -> None:
    """What ComfyUI has against a graph, node by node."""
    node_errors = details.get("node_errors") if isinstance(details, dict) else None
    if not isinstance(node_errors, dict):
        return
    for node_id, found in node_errors.items():
        problems = found.get("errors", []) if isinstance(found, dict) else found
        name = found.get("class_type", "") if isinstance(found, dict) else ""
        for problem in problems if isinstance(problems, list) else []:
            if isinstance(problem, dict):
                words = problem.get("message") or problem.get("reason")
                screen.line(f"  node {node_id} {name}: {words} {problem.get('details') or problem.get('field') or ''}")


def list_jobs(screen: Screen, jobs: list[Job]) -> None:
    """One line a job: a table on a terminal, tab-separated elsewhere."""
    rows = [_row(job) for job in jobs]
    # Told to those who see the jobs of several.
    tenants = [(str(job["tenant"]),) if job.get("tenant") else () for job in jobs]
    if not screen.is_terminal:
        # Not through rich, which would turn tabs into spaces.
        for row, job, tenant in zip(rows, jobs, tenants, strict=True):
            print("\t".join(printable(cell) for cell in (*row, why_it_waits(job) or "-", *tenant)))
        return
    # To the second, so that there is room for it in 80 columns.
    seen = [(*row[:2], row[2][:19].replace("T", " "), *row[3:]) for row in rows]
    headings: Sequence[Heading] = JOB_COLUMNS
    if set(tenants) - {(USUAL_TENANT,), ()}:
        headings = (*JOB_COLUMNS, TENANT_COLUMN)
        seen = [(*row, *(tenant or ("-",))) for row, tenant in zip(seen, tenants, strict=True)]
    reasons = {str(job["id"]): why_it_waits(job) for job in jobs}
    print_table(
        screen.console,
        headings,
        seen,
        style=lambda row: COLORS.get(row[1], ""),
        note=lambda row: reasons.get(row[0], ""),
    )


def _row(job: Job) -> tuple[str, ...]:
    progress = job.get("progress") or {}
    percent = f"{float(progress.get('value') or 0):.0%}" if progress else "-"
    if job["status"] == "succeeded":
        # What ComfyUI served from its cache was over before it had any progress.
        percent = "100%"
    created = str(job.get("created_at") or job.get("create_time") or "-")
    count = str(len(job.get("outputs") or []))
    template = str(job.get("template") or "-")
    return str(job["id"]), str(job["status"]), created, percent, count, template, short_place(job)


def progress_bar(console: Console) -> Progress:
    """A bar with a status before it and a detail behind it."""

    def whole() -> Column:
        return Column(no_wrap=True)

    return Progress(
        SpinnerColumn(table_column=whole()),
        TextColumn("{task.description}", markup=False, table_column=whole()),
        BarColumn(bar_width=30 if console.width >= WIDE else 10, table_column=whole()),
        TaskProgressColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        # This alone gives way on a narrow terminal.
        TextColumn("{task.fields[detail]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
        console=console,
        expand=True,
    )


def _transfer_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    )


def warn(text: str) -> None:
    """One line on stderr that begins with our name; of a process that logs JSON, a line of its log."""
    say(printable(text))
