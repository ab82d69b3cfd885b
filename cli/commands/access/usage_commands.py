"""The command `comfyline usage`: what tenants, keys and templates used, day by day, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading
from cli.output.waits import about
from cli.remote.answers import ServerUnreachable
from cli.remote.list_filters import moment

_PATH = "/api/v2/usage"
DIMENSIONS = ("tenant", "key", "template", "gpu", "day")
_AMOUNTS = (
    Heading("GPU time"),
    Heading("run", gives_way=3),
    Heading("load", gives_way=4),
    Heading("lost", gives_way=2),
    Heading("jobs"),
    Heading("failed", gives_way=1),
    Heading("in", gives_way=6),
    Heading("out", gives_way=5),
)
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@click.command()
@click.option(
    "--by", metavar="WORD", multiple=True, type=click.Choice(DIMENSIONS),
    help="Group by tenant, key, template, gpu or day; may be given several times. Default: tenant.",
)  # fmt: skip
@click.option("--since", metavar="DAY", help="The first day: 2026-01-31, or 7d for a week ago. Default: 30 days.")
@click.option("--until", metavar="DAY", help="The last day; default: today, in UTC.")
@click.option("--tenant", help="Only this tenant.")
@click.option("--kept", is_flag=True, help="Say too how many bytes are kept now.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@server_option
@json_option
def usage(
    by: tuple[str, ...],
    since: str | None,
    until: str | None,
    tenant: str | None,
    kept: bool,
    as_csv: bool,
    server: str | None,
    as_json: bool,
) -> int:
    """Show what was used: GPU time that ran, loaded models or was lost, jobs, bytes, money."""
    if as_csv and as_json:
        raise click.UsageError("--csv or --json, not both.")
    names = by or ("tenant",)
    asked = {"by": ",".join(names), "since": _day(since), "until": _day(until), "tenant": tenant}
    if kept:
        asked["kept"] = "true"
    client = open_client(server)
    if as_csv:
        click.echo(client.text(_PATH, parameters={**asked, "format": "csv"}), nl=False)
        return EXIT_OK
    report = client.ask("GET", _PATH, parameters=asked)
    if not isinstance(report.get("rows"), list) or not isinstance(report.get("total"), dict):
        raise ServerUnreachable("The server answered something that is no usage: is it a Comfyline server?")
    if as_json:
        print_json(report)
    else:
        _show(Screen(), report)
    return EXIT_OK


def _show(screen: Screen, report: Mapping[str, Any]) -> None:
    names, currency = report["by"], report.get("currency")
    money = (Heading(str(currency)),) if currency else ()
    headings = (*(Heading(name) for name in names), *_AMOUNTS, *money)
    rows = [(*(_name(row, name) for name in names), *_cells(row, currency)) for row in report["rows"]]
    if len(rows) != 1:
        rows.append((*("all" if at == 0 else "" for at in range(len(names))), *_cells(report["total"], currency)))
    print_rows(screen, headings, rows)
    if not screen.is_terminal:
        return
    screen.line(f"From {report['since']} to {report['until']}, days in UTC.", style="dim")
    for kept in report.get("kept") or []:
        screen.line(f"{kept['tenant']} keeps {_size(kept['bytes'])} now.", style="dim")
    if currency and report.get("unpriced_gpus"):
        unpriced = about(report["total"]["unpriced_s"])
        kinds = ", ".join(report["unpriced_gpus"])
        screen.line(f"Without a price, and not in the sums: {unpriced} on {kinds}.", style="yellow")


def _name(row: Mapping[str, Any], name: str) -> str:
    if name == "key":
        return str(row.get("key_name") or row.get("key_id") or "-")
    return str(row.get(name) or "-")


def _cells(row: Mapping[str, Any], currency: object) -> tuple[str, ...]:
    jobs = row["jobs"]
    cost = () if not currency else (f"{float(row.get('cost') or 0):.2f}",)
    return (
        *(f"{row[name]:.1f} s" for name in ("gpu_s", "run_s", "load_s", "lost_s")),
        *(str(sum(jobs.values())), str(jobs["failed"])),
        *(_size(row["bytes_in"]), _size(row["bytes_out"])),
        *cost,
    )


def _size(size_bytes: float) -> str:
    amount, unit = float(size_bytes), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def _day(text: str | None) -> str | None:
    """Return a day in the API's form. Raises InvalidRequest: it is none."""
    if text is None or _DAY.fullmatch(text):
        return text
    at = moment(text)
    return None if at is None else at[:10]
