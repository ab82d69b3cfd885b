"""What a terminal shows: ids and states are whole at any width, and what matters most of a running job is there."""

from __future__ import annotations

import io
import re
import uuid

import pytest
from rich.console import Console

import cli.commands.gpus
import cli.commands.webhooks
from cli.output.terminal import JOB_COLUMNS, Screen, describe_job, list_jobs
from cli.output.text_tables import Heading, print_table
from cli.remote.sse import SseEvent

JOB_ID, WAITING_ID = str(uuid.uuid4()), str(uuid.uuid4())
WIDTHS = [20, 40, 60, 80, 100, 132, 250]


def terminal(width: int) -> tuple[Screen, io.StringIO]:
    screen, text = Screen(), io.StringIO()
    screen.console = Console(
        file=text, force_terminal=True, color_system=None, width=width, highlight=False, markup=False, soft_wrap=True
    )
    return screen, text


def last_line(text: io.StringIO) -> str:
    """What a display left behind, without the codes that move the cursor."""
    lines = re.split(r"[\r\n]|\x1b\[[?0-9]*[A-Za-z]", text.getvalue())
    return next(line for line in reversed(lines) if line)


def job(status: str) -> dict[str, object]:
    return {"id": JOB_ID, "status": status, "created_at": "2026-11-29T15:20:19.207Z", "template": "interior_design"}


def gpu_row(name: str) -> tuple[str, ...]:
    card = "NVIDIA RTX 6000 Ada Generation 48 GB"
    return (name, "quarantined", "SIMULATED", "fast", card, JOB_ID, "a" * 90, "12, 140 s", "3 d 4 h", "12")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_list_has_ids_and_states_whole(width: int) -> None:
    screen, text = terminal(width)
    list_jobs(screen, [job("canceling"), job("succeeded")])

    lines = text.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["id", "status"], [JOB_ID, "canceling"], [JOB_ID, "succeeded"]]
    assert all(len(line) <= max(width, 36 + 2 + 9) for line in lines), "no line goes on below itself in vain"


def test_a_list_leaves_out_columns_and_cuts_none() -> None:
    titles = {}
    for width in WIDTHS:
        screen, text = terminal(width)
        list_jobs(screen, [job("succeeded")])
        assert "…" not in text.getvalue()
        titles[width] = text.getvalue().splitlines()[0].split()
    assert titles[60] == ["id", "status", "progress"]
    assert titles[80] == ["id", "status", "created", "(UTC)", "progress"]
    assert " ".join(titles[132]) == " ".join(heading.title for heading in JOB_COLUMNS)


def waiting() -> dict[str, object]:
    queue = {"position": 3, "starts_in_s": 130.0, "reason": "2 jobs like it go first.", "reason_code": "behind"}
    return job("queued") | {"id": WAITING_ID, "queue_position": 3, "estimated_wait_ms": 130_000, "queue": queue}


def test_a_list_says_below_a_waiting_job_why_it_waits() -> None:
    screen, text = terminal(132)
    list_jobs(screen, [waiting(), job("succeeded")])

    lines = text.getvalue().splitlines()
    assert lines[0].endswith("place")
    assert lines[1].rstrip().endswith("3, in 2 min")
    assert lines[2] == "  2 jobs like it go first."
    assert lines[3].startswith(JOB_ID)


def test_elsewhere_place_and_reason_are_the_last_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    list_jobs(Screen(), [waiting(), job("succeeded")])

    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[-2:] == ["3, in 2 min", "2 jobs like it go first."]
    assert second[-2:] == ["-", "-"]
    assert len(first) == len(second) == 8


def test_who_sees_the_jobs_of_several_tenants_is_shown_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs = job("succeeded") | {"tenant": "default"}, job("succeeded") | {"tenant": "acme"}
    for jobs, is_shown in (([mine, mine], False), ([mine, theirs], True), ([job("succeeded")], False)):
        screen, text = terminal(160)
        list_jobs(screen, jobs)
        heading, first, *_ = text.getvalue().splitlines()
        assert heading.rstrip().endswith("tenant") == is_shown
        assert first.rstrip().endswith("default") == is_shown
    list_jobs(Screen(), [mine, theirs])
    assert [line.split("\t")[8] for line in capsys.readouterr().out.splitlines()] == ["default", "acme"]

    for shown, is_told in ((mine, False), (theirs, True)):
        screen, text = terminal(160)
        describe_job(screen, shown)
        assert ("  tenant     acme" in text.getvalue()) == is_told


@pytest.mark.parametrize("width", WIDTHS)
def test_gpus_have_names_states_and_jobs_whole_or_not(width: int) -> None:
    screen, text = terminal(width)
    names = ["gpu0@render-machine-3.example.com", "gpu1@a"]
    print_table(
        screen.console,
        cli.commands.gpus.COLUMNS,
        [gpu_row(name) for name in names],
        note=lambda row: "It failed.\nOften." if row[0] == "gpu1@a" else "",
    )
    lines = text.getvalue().splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["GPU", "state"], *([name, "quarantined"] for name in names)]
    assert lines[3:] == ["  It failed.", "Often."]
    assert (JOB_ID in text.getvalue()) == (JOB_ID[:8] in text.getvalue())
    assert JOB_ID in text.getvalue() or width < 100


@pytest.mark.parametrize("width", WIDTHS)
def test_deliveries_have_ids_whole(width: int) -> None:
    screen, text = terminal(width)
    row = (
        JOB_ID,
        "delivered",
        "job.completed",
        JOB_ID[::-1],
        "1",
        "-",
        "answered 500",
        "https://example.com/" + "x" * 99,
    )
    print_table(screen.console, cli.commands.webhooks.COLUMNS, [row])

    line = text.getvalue().splitlines()[1]
    assert line.split()[:2] == [JOB_ID, "delivered"]
    assert (JOB_ID[::-1] in line) == (JOB_ID[::-1][:8] in line)


def test_cells_of_others_stay_in_their_line() -> None:
    screen, text = terminal(80)
    print_table(screen.console, [Heading("a"), Heading("b", is_cut=True)], [("x\ny", "\x1b[2Jz" * 40)])

    lines = text.getvalue().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in text.getvalue()
    assert lines[1].startswith("x y  ")
    assert lines[1].endswith("…")
    assert len(lines[1]) == 80


@pytest.mark.parametrize(
    ("width", "ends"),
    [
        (60, "about 12 s left"),
        (80, "about 12 s left, KSampler (node 3)"),
        (140, "about 12 s left, KSampler (node 3), step 9/20, 4 of 7 nodes done"),
    ],
)
def test_a_bar_tells_state_share_and_time_left(width: int, ends: str) -> None:
    screen, text = terminal(width)
    work = {"current_node": "3", "current_node_class": "KSampler", "step": 9, "steps": 20, "nodes_total": 7}
    with screen.progress() as progress:
        progress(SseEvent(name="status", data={"status": "running"}))
        progress(SseEvent(name="progress", data={"value": 0.42, "nodes_done": 4, "remaining_s": 12.0, **work}))

    line = last_line(text)
    assert "running" in line
    assert "42%" in line
    assert ends in line
    assert len(line) <= width


def test_a_bar_tells_the_place_of_a_waiting_job_in_sixty_columns() -> None:
    screen, text = terminal(60)
    with screen.progress() as progress:
        progress(SseEvent(name="status", data={"status": "queued", "queue_position": 3, "estimated_wait_ms": 9000}))

    assert "queued" in last_line(text)
    assert "place 3 in the" in last_line(text)


def test_a_bar_forgets_the_place_when_the_job_runs() -> None:
    screen, text = terminal(60)
    with screen.progress() as progress:
        progress(SseEvent(name="status", data={"status": "queued", "queue_position": 3}))
        progress(SseEvent(name="status", data={"status": "running"}))

    assert "running" in last_line(text)
    assert "place" not in last_line(text)
