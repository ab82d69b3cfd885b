"""The pages for clients list the routes, error codes, events, fields of blocks and refused classes that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from api import create_app
from api.http.errors import GENERATE_STATUS, STATUS, status_of
from api.schema.blocks import S3Body, WebhookBody
from api.schema.bodies import GenerateBody, GenerateInput, SubmitBody
from api.service.waiting import Hub
from core.errors import (
    BrokerUnavailable,
    ComfylineError,
    InstanceUnreachable,
    LedgerUnavailable,
    LimitReached,
    NoHealthyInstance,
    QueueFull,
    RequestError,
    StorageFull,
    StorageUnavailable,
)
from core.ledger import Ledger
from core.ledger.requeue import POISON, QUEUE_TIMEOUT, START_TIMEOUT
from core.object_keys import NAMES
from core.records.webhook_events import EVENTS
from tasks.messaging.app import make_app
from tasks.messaging.publish import Publisher
from tasks.messaging.remote_control import ask
from tests.paths import ROOT
from tests.services import make_settings
from workflows.graphs.checks import REFUSED_CLASSES

DOCS = ROOT / "docs"
TEXT = (DOCS / "api.md").read_text(encoding="utf-8")
GENERATE = (DOCS / "generate.md").read_text(encoding="utf-8")
WEBHOOKS = (DOCS / "webhooks.md").read_text(encoding="utf-8")
S3 = (DOCS / "s3.md").read_text(encoding="utf-8")
#: All pages that say which routes there are.
_PAGES = ("api", "batch-results", "bulk", "comfyui", "files", "generate", "keys", "webhooks")
CONTRACTS = "".join((DOCS / f"{page}.md").read_text(encoding="utf-8") for page in _PAGES)
ERRORS = TEXT.partition("\n## Errors\n")[2]
#: Errors that end a request, beside those of `RequestError`; all others end a job, or stay in a log.
ANSWERED = (
    RequestError,
    QueueFull,
    NoHealthyInstance,
    LimitReached,
    LedgerUnavailable,
    StorageUnavailable,
    StorageFull,
    BrokerUnavailable,
    InstanceUnreachable,
)
#: Codes that come from the web framework, and no class of ours has.
FRAMEWORK = {"method_not_allowed": {405}, "upstream_error": {500}}
#: Ends that the ledger itself gives to a job; nothing is raised then.
ENDS = {POISON, QUEUE_TIMEOUT, START_TIMEOUT}


def tree(base: type[ComfylineError] = ComfylineError) -> Iterator[type[ComfylineError]]:
    """Every error of the project; those of tests are left out."""
    if base.__module__.partition(".")[0] in ("core", "api"):
        yield base
    for child in base.__subclasses__():
        yield from tree(child)


def test_every_code_is_in_a_table() -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", ERRORS, re.MULTILINE))

    assert {kind.code for kind in tree()} | set(FRAMEWORK) | ENDS == listed


def test_codes_of_requests_stand_with_their_status() -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| ([0-9, ]+) \|", ERRORS, re.MULTILINE)
    listed = {code: {int(status) for status in statuses.split(",")} for code, statuses in rows}

    expected: dict[str, set[int]] = dict(FRAMEWORK)
    for kind in tree():
        if issubclass(kind, ANSWERED):
            statuses = {status_of(kind("x"), table) for table in (STATUS, GENERATE_STATUS)}
            expected[kind.code] = expected.get(kind.code, set()) | statuses
    assert expected == listed


def test_every_route_is_there_and_no_other(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="")
    ledger = Ledger(settings)
    celery = make_app(settings, "api")
    hub = Hub(ledger.jobs.states, ledger.jobs.many)
    app = create_app(settings, ledger=ledger, publisher=Publisher(celery), hub=hub, ask=partial(ask, celery))

    served = {
        f"{method} {re.sub('<[^>]+>', '{id}', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`?]*)", CONTRACTS)) == served


def test_every_event_of_a_webhook_is_there_in_the_order_of_a_jobs_life() -> None:
    assert re.findall(r"^\| `(job\.\w+)` \|", WEBHOOKS, re.MULTILINE) == list(EVENTS)


def test_every_field_of_a_key_is_there() -> None:
    rows = re.findall(r"^\| (`\{.+?) \|", S3, re.MULTILINE)

    assert {field for row in rows for field in re.findall(r"\{(\w+)\}", row)} == set(NAMES)


def test_every_field_of_a_block_is_there() -> None:
    assert fields_of(S3) == set(S3Body.model_fields)
    assert fields_of(WEBHOOKS) == set(WebhookBody.model_fields)


def test_every_field_of_a_submission_is_there() -> None:
    assert fields_of(TEXT.partition("\n### Submit\n")[2]) == set(SubmitBody.model_fields)
    in_input = {f"input.{field}" for field in GenerateInput.model_fields}
    assert fields_of(GENERATE) == in_input | set(GenerateBody.model_fields) - {"input"}


def fields_of(text: str) -> set[str]:
    """What the first table of fields names in its first column."""
    table = text.partition("| field | meaning |\n| --- | --- |\n")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return {field for cell in cells for field in re.findall(r"`([\w.]+)`", cell)}


def test_every_refused_class_is_there() -> None:
    named = re.search(r"these classes are refused(.*?)\.\n\n", TEXT, re.DOTALL)

    assert named is not None
    assert set(re.findall(r"`(\w+)`", named[1])) == set(REFUSED_CLASSES)
