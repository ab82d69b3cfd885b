"""The command `comfyline audit`: who did what on the server."""

from __future__ import annotations

from typing import Any

import click

from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client
from cli.remote.list_filters import moment

_PATH = "/api/v2/audit"
#: What the server gives at once.
PAGE = 100
COLUMNS = (
    Heading("at (UTC)"),
    Heading("act"),
    Heading("subject"),
    Heading("who", gives_way=1),
    Heading("tenant", gives_way=3),
    Heading("address", gives_way=2),
    Heading("details", gives_way=4, is_cut=True),
)

Entry = dict[str, Any]


@click.command()
@click.option("--act", help="Only these, such as key.create or gpu.drain.")
@click.option("--subject", metavar="ID", help="Only acts on this key, tenant, GPU, job, file or process.")
@click.option("--tenant", help="Only acts by keys of this tenant.")
@click.option("--key", "key_id", metavar="ID", help="Only acts by this key.")
@click.option("--since", metavar="TIME", help="Not earlier: 2h, 7d or 2026-01-31.")
@click.option("--until", metavar="TIME", help="Earlier than that.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@server_option
@json_option
def audit(limit: int, server: str | None, as_json: bool, since: str | None, until: str | None, **only: Any) -> int:
    """Show who did what: keys, tenants, GPUs, deletions, webhooks sent again, model files, starts. Newest first."""
    found = _newest(open_client(server), limit, {**only, "from": moment(since), "until": moment(until)})
    if as_json:
        print_json(found)
    else:
        print_rows(Screen(), COLUMNS, [_row(entry) for entry in found])
    return EXIT_OK


def _newest(client: Client, limit: int, filters: dict[str, Any]) -> list[Entry]:
    found: list[Entry] = []
    cursor: str | None = None
    while len(found) < limit:
        asked = {**filters, "limit": min(PAGE, limit - len(found)), "cursor": cursor}
        page = client.ask("GET", _PATH, parameters=asked)
        if not isinstance(page.get("acts"), list):
            raise ServerUnreachable("The server answered something that is no list of acts: is it a Comfyline server?")
        found += page["acts"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    return found


def _row(entry: Entry) -> tuple[str, ...]:
    by, details = entry["by"], dict(entry.get("details") or {})
    if "changed" in details or "settings" in details:
        details = details.get("changed") or {}
    told = ", ".join(f"{name}={value}" for name, value in details.items() if value is not None)
    at = str(entry["at"])[:19].replace("T", " ")
    who, tenant, address = (str(by.get(name) or "-") for name in ("who", "tenant", "address"))
    return at, str(entry["act"]), str(entry["subject"]), who, tenant, address, told or "-"
