"""Sources of the manifest, tried by a host that is to fetch from them: each fault has one line, and none holds up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.records.model_file import ModelFile
from core.settings import Settings
from tasks.models import trial
from tasks.models.trial import try_sources
from tests.model_server import ModelServer, content, model_server
from tests.services import make_settings

BODY = content(10_000)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, models_allow_http=True, models_tokens="known=t0ken")


def problem(settings: Settings, source: str, **fields: Any) -> str | None:
    fields.setdefault("sha256", "a" * 64)
    found = try_sources([ModelFile(path="checkpoints/x.sft", source=source, **fields)], settings, limit_s=10).problems
    return found[0][1] if found else None


def test_a_source_as_it_should_be_is_asked_for_two_bytes(server: ModelServer, settings: Settings) -> None:
    server.serve("/x", BODY)
    assert problem(settings, f"{server.url}/x", size_bytes=len(BODY)) is None
    assert server.sent == {"/x": 2}


def test_each_fault_has_its_line(server: ModelServer, settings: Settings) -> None:
    server.serve("/page", b"<html>", content_type="text/html")
    server.serve("/other-size", BODY)
    server.serve("/private", BODY, token="t0ken")
    server.serve("/early", BODY, cut_bytes=0)
    server.serve("/empty", BODY, says_size=False, headers={"Content-Length": "0"})
    server.serve("/broken", BODY, status=503, has_ranges=False)
    server.serve("/led", b"", redirect="http://169.254.169.254/latest/meta-data/iam/")
    hub = {"X-Linked-Etag": f'"{"b" * 64}"', "X-Linked-Size": str(len(BODY))}
    server.serve("/o/n/resolve/main/x.sft", b"", redirect="/other-size", headers=hub)
    own = settings.model_copy(update={"models_hub_url": server.url})
    said = {
        "page": problem(own, f"{server.url}/page"),
        "size": problem(own, f"{server.url}/other-size", size_bytes=5),
        "none": problem(own, f"{server.url}/none"),
        "no token": problem(own, f"{server.url}/private"),
        "token": problem(own, f"{server.url}/private", token="known"),
        "unknown token": problem(own, f"{server.url}/private", token="other"),
        "early": problem(own, f"{server.url}/early"),
        "empty": problem(own, f"{server.url}/empty"),
        "broken": problem(own, f"{server.url}/broken"),
        "hash": problem(own, "hf://o/n@main/x.sft"),
        "metadata": problem(own, "http://169.254.169.254/latest"),
        "led on": problem(own, f"{server.url}/led"),
        "http": problem(own.model_copy(update={"models_allow_http": False}), f"{server.url}/page"),
    }
    assert said.pop("token") is None
    words = {
        "page": "answered with a web page",
        "size": "has 10000 bytes, and the manifest says 5",
        "none": "answered 404: there is no such file",
        "no token": "answered 401: it asks for a token",
        "unknown token": "There is no token other: enter it",
        "early": "broke off",
        "empty": "ends early: it says 10000 bytes",
        "broken": "answered 503",
        "hash": "has another file: its sha256 is bbbbbbbbbbbb",
        "metadata": "where a cloud keeps a machine's secrets",
        "led on": "/led leads to where a cloud keeps a machine's secrets",
        "http": "COMFYLINE_MODELS_ALLOW_HTTP",
    }
    assert {name for name, text in said.items() if words[name] not in str(text)} == set(), said
    assert not [text for text in said.values() if "\n" in str(text) or "t0ken" in str(text)]


def test_a_source_that_hangs_holds_up_no_other(
    server: ModelServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TIMEOUTS_S", (30.0, 30.0))
    server.serve("/x", BODY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hangs"
        sources = [url, f"{server.url}/x", f"{server.url}/none"]
        entries = [
            ModelFile(path=f"checkpoints/{number}.sft", source=source, sha256="a" * 64)
            for number, source in enumerate(sources)
        ]
        begun_s = time.monotonic()
        found = [(entry.path, said) for entry, said in try_sources(entries, settings, limit_s=2).problems]
    assert time.monotonic() - begun_s < 20
    assert found == [
        ("checkpoints/0.sft", "its source did not answer within 2 s."),
        ("checkpoints/2.sft", f"{sources[2]} answered 404: there is no such file."),
    ]
