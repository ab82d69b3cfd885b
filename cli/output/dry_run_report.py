"""A dry run's report for people: whether and where it runs, what is missing, and when it would begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.output.terminal import Screen, describe_refusal
from cli.output.waits import about
from core.texts.cards import gigabytes

_KINDS = {"node": "node class", "model": "model", "input": "input file"}
_CAN_RUN = {"yes": "can run it", "once_fetched": "can run it once its models are fetched", "no": "cannot run it"}


def describe_report(screen: Screen, report: Mapping[str, Any]) -> None:
    """Show a report, line by line."""
    screen.line(_headline(report), "green" if report.get("runnable") else "red")
    for problem in report.get("problems") or []:
        screen.line(f"  {problem['error']['message']}")
        describe_refusal(screen, problem["error"].get("details"))
    for gpu in report.get("gpus") or []:
        screen.line(f"{_gpus(gpu)} {_CAN_RUN.get(gpu['can_run'], gpu['can_run'])}.{_words(gpu['why_not'])}")
    for thing in report.get("missing") or []:
        screen.line(f"Missing: {'; '.join(_missing(thing))}.")
    estimate = report.get("estimate")
    if isinstance(estimate, dict):
        screen.line("".join(_estimate(estimate)))


def _headline(report: Mapping[str, Any]) -> str:
    if not report.get("runnable"):
        return "No GPU can run it as it is."
    nodes = report.get("nodes_total")
    of_nodes = "" if nodes is None else f", {nodes} {'node' if nodes == 1 else 'nodes'}"
    return f"It can run{of_nodes}{'.' if report.get('accepted') else ', and is not accepted now:'}"


def _gpus(gpu: Mapping[str, Any]) -> str:
    count, pool, size = gpu["gpus"], gpu["pool"], gpu["vram_bytes"]
    of_size = "" if size is None else f" with {gigabytes(size)}"
    ready = "" if gpu["ready"] == count else f", {gpu['ready']} ready"
    return f"{f'Pool {pool}' if pool else 'No pool'} ({count} {'GPU' if count == 1 else 'GPUs'}{of_size}{ready})"


def _words(sentences: Sequence[str]) -> str:
    return "".join(f" {each}" for each in sentences)


def _missing(thing: Mapping[str, Any]) -> Iterator[str]:
    where = f" for {thing['input']}" if thing.get("input") else ""
    nodes = thing["nodes"]
    yield f"{_KINDS.get(thing['kind'], thing['kind'])} {thing['name']}{where}, node {', '.join(nodes[:5])}"
    if thing["present_in"]:
        yield f"there in {_pools(thing['present_in'])}"
    fetch = thing.get("fetch")
    if fetch is not None:
        size = "" if fetch["size_bytes"] is None else f"{gigabytes(fetch['size_bytes'])}, "
        when = "but no host fetches it" if fetch["fetch_s"] is None else f"in about {about(fetch['fetch_s'])}"
        yield f"it can be fetched: {size}{when}"
    if thing["nearest"]:
        yield f"most like it: {', '.join(thing['nearest'])}"


def _pools(pools: Sequence[str | None]) -> str:
    return ", ".join(f"pool {pool}" if pool else "no pool" for pool in pools)


def _estimate(estimate: Mapping[str, Any]) -> Iterator[str]:
    starts_in_s, load_s = estimate["starts_in_s"], estimate.get("load_s")
    if starts_in_s is None:
        yield "It would wait."
    else:
        yield "It would begin at once" if starts_in_s < 1 else f"It would begin in about {about(starts_in_s)}"
        yield f", of which models load about {about(load_s)}" if load_s else ""
        yield f", and run about {about(estimate['run_s'])}."
    yield f" {estimate['reason']}"
    if estimate["expires"]:
        yield " That is too late: it would end as expired."
