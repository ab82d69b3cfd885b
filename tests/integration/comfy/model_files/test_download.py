"""Model files from a real server: in ranges, taken up again, and from servers that lie or break off."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.model_files import download
from comfy.model_files.download import Download, Fetched
from comfy.model_files.offers import Wanted
from comfy.model_files.remote import Address
from core.errors import ModelRefused, ModelUnavailable
from tests.model_server import ModelServer, content, model_server
from tests.paths import ROOT
from tests.waiting import until

BLOCK = 256 * 1024
BODY = content(5_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
#: Fetches in a process of its own: URL, part, hash.
FETCH = f"""
import sys
from pathlib import Path
from comfy.model_files.download import Download
from comfy.model_files.offers import Wanted
from comfy.model_files.remote import Address
url, part, sha256 = sys.argv[1:]
address = Address(url=lambda: url, shown=url, allow_http=True)
Download(address, Path(part), Wanted(sha256=sha256, size_bytes=None), block_bytes={BLOCK}).run()
"""


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / ".x.safetensors.part"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    monkeypatch.setattr(download, "TELL_S", 0.05)


def fetch(
    server: ModelServer,
    part: Path,
    *,
    sha256: str | None = SHA,
    size: int | None = None,
    token: str | None = None,
    path: str = "/x",
    allow_http: bool = True,
    **options: Any,
) -> Fetched | None:
    url = server.url + path
    address = Address(url=lambda: url, shown=url, token=token, allow_http=allow_http)
    return Download(address, part, Wanted(sha256=sha256, size_bytes=size), block_bytes=BLOCK, **options).run()


def test_a_file_comes_in_ranges_side_by_side(server: ModelServer, part: Path) -> None:
    server.serve("/x", BODY, bytes_s=20e6)
    told: list[tuple[int, int | None]] = []

    found = fetch(server, part, size=len(BODY), tell=lambda done, size: told.append((done, size)))

    assert found == Fetched(sha256=SHA, size_bytes=len(BODY))
    assert part.read_bytes() == BODY
    assert server.most_at_once > 1
    assert server.sent["/x"] == len(BODY) + 1, "every byte once, and one to ask for the size"
    assert told[-1] == (len(BODY), len(BODY))
    # Whoever is killed before it is in its place finds all of it there.
    server.forget()
    assert fetch(server, part) == found
    assert server.sent == {"/x": 1}


def test_what_was_killed_goes_on_where_it_was(server: ModelServer, part: Path) -> None:
    file = server.serve("/x", BODY, bytes_s=300e3)
    child = subprocess.Popen([sys.executable, "-c", FETCH, f"{server.url}/x", str(part), SHA], cwd=ROOT)
    try:
        journal = part.with_suffix(".journal")
        until(lambda: journal.exists() and len(journal.read_text().splitlines()) > 4, what="some blocks")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    blocks = len(journal.read_text().splitlines()) - 1
    file.bytes_s = None
    until(lambda: not server.busy, what="the end of its connections")
    server.forget()

    assert fetch(server, part) == Fetched(sha256=SHA, size_bytes=len(BODY))

    assert part.read_bytes() == BODY
    assert server.sent["/x"] <= len(BODY) + 1 - (blocks - 1) * BLOCK


def test_who_is_told_to_leave_it_leaves_what_is_there(server: ModelServer, part: Path) -> None:
    file = server.serve("/x", BODY, bytes_s=300e3)
    journal = part.with_suffix(".journal")
    assert fetch(server, part, goes_on=lambda: len(journal.read_text().splitlines()) < 4) is None
    file.bytes_s = None
    until(lambda: not server.busy, what="the end of its connections")
    server.forget()
    assert fetch(server, part) is not None
    assert server.sent["/x"] < len(BODY) - BLOCK


def test_half_a_line_in_the_journal_is_no_block(server: ModelServer, part: Path) -> None:
    file = server.serve("/x", BODY, bytes_s=300e3)
    journal = part.with_suffix(".journal")
    fetch(server, part, goes_on=lambda: len(journal.read_text().splitlines()) < 3)
    with journal.open("a") as opened:
        opened.write("1")
    file.bytes_s = None
    assert fetch(server, part) == Fetched(sha256=SHA, size_bytes=len(BODY))


def test_what_breaks_off_is_asked_for_again_from_there(server: ModelServer, part: Path) -> None:
    server.serve("/x", BODY, cut_bytes=BLOCK + 1000, cuts=12)
    assert fetch(server, part) == Fetched(sha256=SHA, size_bytes=len(BODY))
    assert server.sent["/x"] < 2 * len(BODY)


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_server_without_ranges_gives_all_in_one(server: ModelServer, part: Path, size: int | None) -> None:
    server.serve("/x", BODY, has_ranges=False, says_size=size is not None)
    assert fetch(server, part, size=size) == Fetched(sha256=SHA, size_bytes=len(BODY))
    assert part.read_bytes() == BODY


def test_a_file_that_changes_meanwhile_is_begun_anew(
    server: ModelServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SPAN_BLOCKS", 1)
    file = server.serve("/x", BODY, bytes_s=300e3)
    journal = part.with_suffix(".journal")

    def goes_on() -> bool:
        if len(journal.read_text().splitlines()) > 2:
            file.etag, file.body, file.bytes_s = '"two"', content(4_000_000, seed=2), None
        return True

    with pytest.raises(ModelUnavailable, match="changed while it was fetched"):
        fetch(server, part, goes_on=goes_on)
    assert fetch(server, part, sha256=file.sha256) == Fetched(sha256=file.sha256, size_bytes=4_000_000)
    assert part.read_bytes() == file.body


@pytest.mark.parametrize(
    ("how", "wanted", "error", "words"),
    [
        ({}, {"sha256": "0" * 64}, ModelRefused, "gave another file"),
        ({}, {"size": 7}, ModelRefused, "has 5000000 bytes, and the manifest says 7"),
        ({"has_ranges": False, "says_size": False}, {"size": 7}, ModelRefused, "the manifest says 7"),
        ({}, {"sha256": None}, ModelRefused, "says no sha256"),
        ({"content_type": "text/html; charset=utf-8"}, {}, ModelRefused, "web page"),
        ({"status": 404, "has_ranges": False}, {}, ModelRefused, "answered 404: there is no such file"),
        ({"status": 403, "has_ranges": False}, {}, ModelRefused, "answered 403: it asks for a token"),
        ({"status": 503, "has_ranges": False}, {}, ModelUnavailable, "answered 503"),
        ({"cut_bytes": 1000}, {}, ModelUnavailable, "broke off"),
        ({"cut_bytes": 1000, "has_ranges": False}, {}, ModelUnavailable, "broke off"),
        ({"token": "right"}, {"token": "wrong"}, ModelRefused, "token"),
    ],
)
def test_sources_that_lie_or_break_off_are_told_in_a_line(
    server: ModelServer, part: Path, how: dict[str, Any], wanted: dict[str, Any], error: type[Exception], words: str
) -> None:
    server.serve("/x", BODY, **how)
    with pytest.raises(error, match=words) as caught:
        fetch(server, part, **wanted)
    assert "\n" not in str(caught.value)
    if error is ModelRefused:
        assert list(part.parent.iterdir()) == [], "what is of no use is thrown away"


def test_nobody_answers(server: ModelServer, part: Path) -> None:
    address = Address(url=lambda: "http://127.0.0.1:9/x", shown="http://127.0.0.1:9/x", allow_http=True)
    with pytest.raises(ModelUnavailable, match=r"127.0.0.1:9/x does not answer \(ConnectionError\)"):
        Download(address, part, Wanted(sha256=SHA, size_bytes=None)).run()


def test_a_hub_leads_on_and_says_the_hash(server: ModelServer, part: Path) -> None:
    linked = {"X-Linked-Etag": f'"{SHA}"', "X-Linked-Size": str(len(BODY))}
    server.serve("/hub", b"", redirect="/x", headers=linked, token="t")
    server.serve("/x", BODY)
    assert fetch(server, part, path="/hub", sha256=None, token="t") == Fetched(sha256=SHA, size_bytes=len(BODY))
    server.files["/hub"].headers["X-Linked-Etag"] = f'"{"0" * 64}"'
    with pytest.raises(ModelRefused, match="another file"):
        fetch(server, part, path="/hub", sha256=None, token="t")


def test_no_redirect_leads_out_of_tls_unless_that_is_allowed(server: ModelServer, part: Path) -> None:
    server.serve("/from", b"", redirect="/x")
    server.serve("/x", BODY)
    with pytest.raises(ModelRefused, match="without TLS"):
        fetch(server, part, path="/from", allow_http=False)


def test_a_disk_that_takes_nothing_is_told_in_a_line(server: ModelServer, tmp_path: Path) -> None:
    server.serve("/x", BODY)
    with pytest.raises(ModelUnavailable, match="cannot be written: No such file or directory"):
        fetch(server, tmp_path / "away" / ".x.part")


def test_room_is_made_before_anything_is_written(server: ModelServer, part: Path) -> None:
    """A disk that others have filled takes no journal, either, and nothing would ever go for the file."""
    server.serve("/x", BODY)
    seen: list[list[str]] = []
    fetch(server, part, make_room=lambda _size: seen.append(sorted(each.name for each in part.parent.iterdir())))
    assert seen[0] == []


def test_a_disk_that_takes_a_piece_by_halves_gets_the_rest(
    server: ModelServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/x", BODY)
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, piece, offset: whole(file, piece[: len(piece) // 2 + 1], offset))
    fetch(server, part)
    assert part.read_bytes() == BODY


def test_a_source_that_says_no_size_gets_no_more_room_than_there_is(server: ModelServer, part: Path) -> None:
    server.serve("/x", BODY, has_ranges=False, says_size=False, bytes_s=20e6)
    asked: list[int] = []

    def has_room(size: int) -> bool:
        asked.append(size)
        return size <= 1_000_000

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ROOM_BYTES", 400_000)
        with pytest.raises(ModelRefused, match=r"/x sends more than there is room for: \d+ bytes came.*size_bytes"):
            fetch(server, part, has_room=has_room)
    assert list(part.parent.iterdir()) == [], "it was thrown away"
    assert sorted(asked) == asked
    assert len(asked) <= 4, "it is asked for room in steps"
    until(lambda: not server.busy, what="the end of its connection")
    assert server.sent["/x"] < len(BODY)


def test_what_an_entry_says_is_the_most_that_comes(server: ModelServer, part: Path) -> None:
    server.serve("/x", BODY, has_ranges=False, says_size=False, bytes_s=20e6)
    rooms: list[int] = []
    with pytest.raises(ModelRefused, match="the manifest says 1000000"):
        fetch(server, part, size=1_000_000, make_room=rooms.append, has_room=lambda _size: False)
    assert rooms == [1_000_000]
    assert list(part.parent.iterdir()) == []


def test_who_has_no_room_any_more_gives_back_what_he_has(
    server: ModelServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ROOM_S", 0.1)
    server.serve("/x", BODY, bytes_s=300e3)
    rooms: list[int] = []

    def make_room(size: int) -> None:
        rooms.append(size)
        if len(rooms) > 1:
            raise ModelUnavailable("There is no room.")

    with pytest.raises(ModelUnavailable, match="no room"):
        fetch(server, part, make_room=make_room)
    assert rooms == [len(BODY)] * 2
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize(
    "how",
    [
        {"is_mute": True},
        {"has_ranges": False, "bytes_s": 0.1, "piece_bytes": 1},
        {"has_ranges": False, "bytes_s": 0.1, "piece_bytes": 1, "says_size": False},
        {"bytes_s": 0.1, "piece_bytes": 1},
    ],
)
def test_a_fetch_can_be_cut_whatever_its_source_does(server: ModelServer, part: Path, how: dict[str, Any]) -> None:
    file = server.serve("/x", BODY, **how)
    url = f"{server.url}/x"
    running = Download(Address(url=lambda: url, shown=url, allow_http=True), part, Wanted(sha256=SHA, size_bytes=None))
    found: list[Fetched | None] = []
    thread = threading.Thread(target=lambda: found.append(running.run()), daemon=True)
    thread.start()
    until(lambda: server.busy, what="its request")
    time.sleep(0.3)
    running.cut()
    thread.join(5)
    file.is_mute, file.bytes_s = False, None
    assert found == [None]


def test_a_source_may_ask_for_a_pause(server: ModelServer, part: Path) -> None:
    server.serve("/x", BODY, status=429, has_ranges=False, headers={"Retry-After": "7"})
    with pytest.raises(ModelUnavailable, match="answered 429") as caught:
        fetch(server, part)
    assert caught.value.asked_pause_s == 7.0
