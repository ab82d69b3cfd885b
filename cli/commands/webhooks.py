"""The command `comfyline webhooks`: which webhooks were delivered and which were not, and what to do about those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO
from urllib.parse import quote

import click

from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK, EXIT_USAGE
from cli.output.terminal import Screen, warn
from cli.output.text_tables import Heading
from cli.remote.answers import RequestRefused, ServerUnreachable
from cli.remote.client import Client
from cli.remote.job_ids import the_one, whole_id

STYLES = {"delivered": "green", "dead": "red", "sending": "yellow", "pending": ""}
COLUMNS = (
    Heading("id"),
    Heading("state"),
    Heading("event", gives_way=1),
    Heading("job", gives_way=5),
    Heading("tries", gives_way=3),
    Heading("next try", gives_way=4),
    Heading("last error", gives_way=2, is_cut=True),
    Heading("url", gives_way=6, is_cut=True),
)
#: What the server gives at once.
PAGE = 100
_PATH = "/webhooks/deliveries"

Delivery = dict[str, Any]


@click.group()
def webhooks() -> None:
    """List webhook deliveries, send them again, forget them."""


@webhooks.command("list")
@server_option
@click.option("--dead", "state", flag_value="dead", help="Only those that were given up.")
@click.option("--pending", "state", flag_value="pending", help="Only those that are still to be sent.")
@click.option("--job", "job_id", metavar="ID", help="Only those of one job.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
def list_command(server: str | None, state: str | None, job_id: str | None, limit: int, as_json: bool) -> int:
    """List deliveries, the newest first."""
    client = open_client(server)
    job_id = None if job_id is None else whole_id(client, job_id)
    found = _newest(client, limit, state=state, job_id=job_id)
    if as_json:
        print_json(found)
    else:
        _list(Screen(), found)
    return EXIT_OK


@webhooks.command()
@click.argument("delivery_id", metavar="ID")
@server_option
@json_option
def show(delivery_id: str, server: str | None, as_json: bool) -> int:
    """Show one delivery, try by try."""
    client = open_client(server)
    delivery = _checked(client.ask("GET", _path(_whole(client, delivery_id))))
    if as_json:
        print_json(delivery)
    else:
        _describe(Screen(), delivery)
    return EXIT_OK


@webhooks.command()
@click.argument("delivery_ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--secret-file", metavar="FILE", type=click.File("r"),
    help="The secret they are signed with, where it is deleted already; - is stdin.",
)  # fmt: skip
@click.option(
    "--headers-file", metavar="FILE", type=click.File("r"),
    help="The headers they go with, as a JSON object, where they are deleted already.",
)  # fmt: skip
@server_option
@json_option
def replay(
    delivery_ids: tuple[str, ...],
    secret_file: TextIO | None,
    headers_file: TextIO | None,
    server: str | None,
    as_json: bool,
) -> int:
    """Send deliveries again, now. Exit status 2 if one of them cannot be, and all others are sent."""
    client, screen = open_client(server), Screen(json_on_stdout=as_json)
    body: dict[str, Any] = {} if secret_file is None else {"secret": secret_file.read().strip()}
    if headers_file is not None:
        body["headers"] = _headers(headers_file)
    replayed, status = [], EXIT_OK
    for delivery_id in delivery_ids:
        try:
            path = _path(_whole(client, delivery_id))
            replayed.append(_checked(client.ask("POST", f"{path}/replay", body=body or None)))
        except RequestRefused as exc:
            warn(f"{delivery_id}: {exc}")
            status = EXIT_USAGE
        else:
            screen.line(f"{replayed[-1]['id']}  {replayed[-1]['state']}")
    if as_json:
        print_json(replayed)
    return status


@webhooks.command()
@click.option("--dead", is_flag=True, required=True, help="Those that were given up; it must be said.")
@click.option("--older-than", metavar="S", type=click.IntRange(0), default=0, help="Only those given up S seconds ago.")
@server_option
@json_option
def purge(dead: bool, older_than: int, server: str | None, as_json: bool) -> int:  # noqa: ARG001 - what --dead says
    """Forget deliveries that were given up."""
    answer = open_client(server).ask("DELETE", _PATH, parameters={"state": "dead", "older_than": older_than})
    if as_json:
        print_json(answer)
    else:
        Screen().line(f"{answer.get('purged')} forgotten")
    return EXIT_OK


def _headers(file: TextIO) -> Any:
    try:
        return json.load(file)
    except ValueError as exc:
        raise click.UsageError(f"{file.name} is not JSON: a header's name and its value are wanted.") from exc


def _newest(client: Client, limit: int, **filters: str | None) -> list[Delivery]:
    found: list[Delivery] = []
    cursor: str | None = None
    while len(found) < limit:
        parameters = {**filters, "limit": min(PAGE, limit - len(found)), "cursor": cursor}
        page = client.ask("GET", _PATH, parameters=parameters)
        found += [_checked(each) for each in page.get("deliveries", [])]
        cursor = page.get("next_cursor")
        if not (cursor and page["deliveries"]):
            break
    return found


def _whole(client: Client, delivery_id: str) -> str:
    return the_one(delivery_id, lambda: (str(each["id"]) for each in _newest(client, 3, id_prefix=delivery_id)))


def _checked(delivery: Any) -> Delivery:
    if not (isinstance(delivery, dict) and {"id", "state", "event", "job_id", "attempts"} <= delivery.keys()):
        raise ServerUnreachable("The server answered something that is no delivery: is it a Comfyline server?")
    return delivery


def _path(delivery_id: str) -> str:
    return f"{_PATH}/{quote(delivery_id, safe='')}"


def _list(screen: Screen, found: list[Delivery]) -> None:
    """One line a delivery."""
    print_rows(screen, COLUMNS, [_row(delivery) for delivery in found], style=lambda row: STYLES.get(row[1], ""))


def _row(delivery: Delivery) -> tuple[str, ...]:
    last = delivery["attempts"][-1] if delivery["attempts"] else {}
    cells = (
        *(delivery[name] for name in ("id", "state", "event", "job_id")),
        *(delivery.get(name) for name in ("tries", "next_try_at")),
        last.get("error"),
        delivery.get("url"),
    )
    return tuple("-" if cell is None else str(cell) for cell in cells)


def _describe(screen: Screen, delivery: Delivery) -> None:
    screen.line(f"{delivery['id']}  {delivery['state']}", style=STYLES.get(delivery["state"], ""))
    for word in ("event", "job_id", "sequence", "url", "created_at", "next_try_at"):
        if delivery.get(word) is not None:
            screen.line(f"  {word:12} {delivery[word]}")
    for attempt in delivery["attempts"]:
        screen.line(f"  try {attempt.get('number'):<8} {_outcome(attempt)}")


def _outcome(attempt: Mapping[str, Any]) -> str:
    words = attempt.get("error") or f"answered {attempt.get('status_code')}"
    return f"{attempt.get('at')}  {words}  ({attempt.get('duration_ms')} ms)"
