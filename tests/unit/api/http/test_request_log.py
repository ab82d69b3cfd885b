"""Which requests have a line in the log, and what a line may hold."""

from __future__ import annotations

import logging
import re

import pytest
from flask import Flask, Response

from api.http.request_log import HEADER, Level, note_job, reference, register_request_log


def make_app(level: Level) -> Flask:
    """An app that answers whatever status is asked for."""
    app = Flask("test")
    register_request_log(app, level)

    @app.get("/<int:status>")
    def answer(status: int) -> Response:
        note_job("job-1")
        return Response(reference(), status=status)

    @app.get("/health")
    def health() -> str:
        return "well"

    @app.get("/ready")
    def ready() -> tuple[str, int]:
        return "not ready", 503

    return app


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["INFO /200", "WARNING /404", "ERROR /503", "DEBUG /health", "INFO /ready"]),
        ("info", ["INFO /200", "WARNING /404", "ERROR /503", "INFO /ready"]),
        ("warning", ["WARNING /404", "ERROR /503"]),
        ("error", ["ERROR /503"]),
        ("off", []),
    ],
)
def test_the_setting_says_which_lines_there_are(
    level: Level, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app(level).test_client()
    for path in ("/200", "/404", "/503", "/health", "/ready"):
        client.get(path).close()

    said = [record for record in caplog.records if record.name == "comfyline.requests"]

    assert [f"{record.levelname} {record.getMessage().split()[1]}" for record in said] == lines


def test_a_line_says_what_was_asked_and_never_its_query(caplog: pytest.LogCaptureFixture) -> None:
    client = make_app("info").test_client()
    with client.get("/200?signature=secret") as answer:
        found = answer.headers[HEADER]
        assert answer.get_data(as_text=True) == found

    [line] = [record.getMessage() for record in caplog.records if record.name == "comfyline.requests"]
    assert re.fullmatch(rf"GET /200 200 \d+ ms job=job-1 ref={found}", line)


@pytest.mark.parametrize("path", ["/a%0A2026 ERROR forged", "/é", "/" + "x" * 10_000, "/%00"])
def test_a_line_is_one_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    make_app("info").test_client().get(path).close()

    [record] = [record for record in caplog.records if record.name == "comfyline.requests"]
    assert re.fullmatch(r"[!-~ ]{1,300}", record.getMessage())


def test_each_request_has_a_reference_of_its_own_whatever_the_client_sends() -> None:
    client = make_app("off").test_client()
    found = {client.get("/200", headers={HEADER: "mine"}).headers[HEADER] for _ in range(20)}
    assert len(found) == 20
    assert "mine" not in found
    assert reference() is None


@pytest.fixture(autouse=True)
def level_of_the_logger_is_put_back() -> None:
    logging.getLogger("comfyline.requests").setLevel(logging.NOTSET)
