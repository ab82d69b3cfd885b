"""Which requests are counted, and under what: routes, known methods, the status of the answer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from flask import Flask, Response

from api.http.request_log import open_requests, register_request_log
from core.metrics.counted import API_DURATION, API_REQUESTS
from core.metrics.tally import parts_of, process_tally


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    process_tally.take()
    # Answers that other tests never closed end when they are collected.
    gc.collect()
    monkeypatch.setattr(open_requests, "count", 0)
    yield
    process_tally.take()


def make_app() -> Flask:
    app = Flask("test")
    register_request_log(app, "off")

    @app.get("/things/<int:number>")
    def thing(number: int) -> str:
        return str(number)

    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            yield "a"
            yield str(open_requests.count)

        return Response(pieces())

    return app


def counted() -> dict[tuple[str, ...], float]:
    taken = {parts_of(sample): amount for sample, amount in process_tally.take().items()}
    return {labels: amount for (name, _, labels), amount in taken.items() if name == API_REQUESTS.name}


def test_requests_are_counted_by_route_and_not_by_path() -> None:
    client = make_app().test_client()
    for path in ("/things/1", "/things/2", "/nowhere", "/nowhere/else"):
        client.get(path).close()
    client.post("/things/1").close()
    client.open("/things/1", method="INVENTED").close()

    assert counted() == {
        ("GET", "/things/<int:number>", "200"): 2,
        ("GET", "none", "404"): 2,
        ("POST", "none", "405"): 1,
        ("other", "none", "405"): 1,
    }


def test_a_stream_is_open_until_it_has_ended_and_its_answer_began_at_once() -> None:
    client = make_app().test_client()

    with client.get("/stream") as answer:
        assert answer.get_data(as_text=True) == "a1"

    assert open_requests.count == 0
    samples = [parts_of(sample) for sample in process_tally.take()]
    assert [labels for name, part, labels in samples if name == API_DURATION.name and part != "sum"] == [("GET",)]


def test_a_view_that_breaks_is_counted_and_no_longer_open() -> None:
    app = make_app()

    @app.get("/broken")
    def broken() -> str:
        raise KeyError

    app.test_client().get("/broken").close()

    assert counted() == {("GET", "/broken", "500"): 1}
    assert open_requests.count == 0
