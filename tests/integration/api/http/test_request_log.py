"""The API's log: a line for each request, nothing that is secret, and a reference that leads from an answer to it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.settings import Settings
from tests.fleet import work
from tests.integration.api_fixtures import gunicorn_api
from tests.ledger_moves import register, set_columns, submit
from tests.services import make_settings
from tests.waiting import until

SECRET = "a-lighthouse-nobody-may-know-of"
LINE = re.compile(
    r"(?P<level>[A-Z]+) comfyline\.requests: (?P<said>[A-Z]+ \S+ \d+) \d+ ms(?P<job> job=\S+)? ref=(?P<ref>\w+)"
    r"(?: tenant=\S+)? trace_id=[0-9a-f]{32}$"
)


class Served:
    """The API as it is served, and its log."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings

    @property
    def log(self) -> str:
        return (self.settings.data_dir / "gunicorn.log").read_text()

    def line(self, reference: str) -> str:
        """The line of a request: level, what it says up to the status, and its job."""
        found = until(
            lambda: [
                match for line in self.log.splitlines() if (match := LINE.search(line)) and match["ref"] == reference
            ],
            what=f"the line of {reference}",
        )
        assert len(found) == 1
        return f"{found[0]['level']} {found[0]['said']}{found[0]['job'] or ''}"

    def _matches(self, reference: str) -> list[re.Match[str]]:
        matches = [match for line in self.log.splitlines() if (match := LINE.search(line))]
        return [match for match in matches if match["ref"] == reference]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = make_settings(tmp_path_factory.mktemp("served"))
    migrate(settings)
    ledger = Ledger(settings)
    register(ledger, "gpu0@here", {})
    ledger.close()
    with gunicorn_api(settings) as url:
        yield Served(url, settings)


@pytest.fixture(scope="module")
def ledger(served: Served) -> Iterator[Ledger]:
    ledger = Ledger(served.settings)
    yield ledger
    ledger.close()


def test_each_request_is_a_line_with_its_job_and_without_its_query(served: Served, ledger: Ledger) -> None:
    job = submit(ledger)
    found = requests.get(f"{served.url}/api/v2/jobs/{job.id}?token={SECRET}", timeout=10)
    missing = requests.get(f"{served.url}/nothing%0Ahere?token={SECRET}", timeout=10)
    refused = requests.post(f"{served.url}/api/v2/jobs", json={"workflow": work(0.0)}, timeout=10)
    stream = requests.get(f"{served.url}/api/v2/jobs/{job.id}/events", stream=True, timeout=10)
    next(stream.iter_lines())
    stream.close()
    healthy = requests.get(f"{served.url}/health", timeout=10)

    assert served.line(found.headers["X-Request-Id"]) == f"INFO GET /api/v2/jobs/{job.id} 200 job={job.id}"
    assert served.line(missing.headers["X-Request-Id"]) == "WARNING GET /nothing%0Ahere 404"
    assert refused.status_code == 422
    assert served.line(refused.headers["X-Request-Id"]) == "WARNING POST /api/v2/jobs 422"
    ledger.jobs.cancel(job.id)
    assert f"GET /api/v2/jobs/{job.id}/events 200 job={job.id}" in served.line(stream.headers["X-Request-Id"])
    assert healthy.headers["X-Request-Id"] not in served.log
    assert SECRET not in served.log


def test_a_fault_of_ours_has_a_reference_that_leads_to_its_traceback(served: Served, ledger: Ledger) -> None:
    job = submit(ledger)
    set_columns(ledger, job.id, status="unheard-of")

    answer = requests.get(f"{served.url}/api/v2/jobs/{job.id}", timeout=10)

    assert answer.status_code == 500
    error, reference = answer.json()["error"], answer.headers["X-Request-Id"]
    assert error["code"] == "upstream_error"
    assert reference in error["message"]
    assert error["details"] == {"request_id": reference}
    assert served.line(reference) == f"ERROR GET /api/v2/jobs/{job.id} 500 job={job.id}"
    told = [line for line in served.log.splitlines() if f"ref={reference}" in line and "unexpected error" in line]
    assert len(told) == 1
    assert "KeyError" in served.log.partition(told[0])[2]


@pytest.mark.parametrize(
    "request_bytes",
    [
        f"GET /x?token={SECRET} and more HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /x HTTP/1.1\r\nHost: x\r\n{SECRET}\r\n\r\n",
        f"GET /x HTTP/1.1\r\nHost: x\r\n{SECRET} : 1\r\n\r\n",
        f"{SECRET}\x1b[31m /x HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /x {SECRET}\r\nHost: x\r\n\r\n",
        (
            f"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            f"Content-Type: application/json\r\n\r\nz{SECRET}\r\n"
        ),
        f"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {SECRET}\r\n\r\n",
    ],
)
def test_nothing_of_a_request_that_cannot_be_read_is_logged(served: Served, request_bytes: str) -> None:
    address = urlsplit(served.url)
    lines = len(served.log.splitlines())
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
        connection.sendall(request_bytes.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")

    said = until(lambda: served.log.splitlines()[lines:], what="a line about it")
    assert SECRET not in "".join(said)
    assert "\x1b" not in "".join(said)
    assert "request" in said[0], "what was wrong is said"
