"""A job's files come into storage whole, under names of their own, and nothing else does."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from blake3 import blake3
from requests.adapters import HTTPAdapter

from core.errors import ComfyUnavailable, OutputUnavailable
from core.storage.folders import LocalStorage
from core.storage.placing import digest_of, free_name
from tasks.outputs import store as store_module
from tasks.outputs.store import store
from tests.unit.tasks.outputs.reported import pending, saved


class TestStorage:
    def test_files_are_moved_and_hashed(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "gpu", "a.png")
        [stored] = store(tmp_path / "outputs", [pending(source)])
        assert (stored.storage_key, stored.size_bytes) == ("job/a.png", 7)
        assert str(stored.hash).startswith("blake3:")
        assert stored.path_below(tmp_path / "outputs").read_bytes() == b"picture"
        assert not Path(source["path"]).exists()

    def test_doing_it_again_after_a_crash_gives_the_same(self, tmp_path: Path) -> None:
        files = [pending(saved(tmp_path / "gpu", "a.png"))]
        assert store(tmp_path / "outputs", files) == store(tmp_path / "outputs", files)

    def test_a_file_at_its_source_goes_before_one_that_an_earlier_attempt_has_left(self, tmp_path: Path) -> None:
        saved(tmp_path / "outputs" / "job", "a.png", b"of an attempt before")
        [stored] = store(tmp_path / "outputs", [pending(saved(tmp_path / "gpu", "a.png"))])
        assert stored.path_below(tmp_path / "outputs").read_bytes() == b"picture"
        assert stored.size_bytes == 7

    def test_two_files_of_one_name_are_both_kept(self, tmp_path: Path) -> None:
        first = pending(saved(tmp_path / "gpu" / "x", "a.png", b"1"), asset_id="1")
        second = pending(saved(tmp_path / "gpu" / "y", "a.png", b"2"), asset_id="2")
        files = store(tmp_path / "outputs", [first, second])
        assert [file.storage_key for file in files] == ["job/a.png", "job/a (2).png"]
        assert [file.path_below(tmp_path / "outputs").read_bytes() for file in files] == [b"1", b"2"]

    @pytest.mark.parametrize("path", ["missing.png", "../secret.txt", "link.png"])
    def test_nothing_outside_the_instance_is_taken(self, tmp_path: Path, path: str) -> None:
        (tmp_path / "secret.txt").write_text("secret")
        (tmp_path / "gpu").mkdir()
        (tmp_path / "gpu" / "link.png").symlink_to(tmp_path / "secret.txt")
        source = {"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / path)}
        with pytest.raises(OutputUnavailable):
            store(tmp_path / "outputs", [pending(source)])
        assert (tmp_path / "secret.txt").read_text() == "secret"

    @pytest.mark.parametrize("path", ["missing.png", "../x.png", "a\0b.png", "x" * 5000, "folder", "/etc/hostname"])
    def test_a_file_that_cannot_be_had_is_told_and_the_others_come(self, tmp_path: Path, path: str) -> None:
        good = saved(tmp_path / "gpu", "a.png")
        (tmp_path / "gpu" / "folder").mkdir()
        bad = {"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / path)}
        missing: dict[str, str] = {}
        files = [pending(bad, name="b.png", asset_id="1"), pending(good, asset_id="2")]
        stored = store(tmp_path / "outputs", files, missing)
        assert [file.id for file in stored] == ["2"]
        assert list(missing) == ["1"]
        assert "Node 9" in missing["1"]
        assert "b.png" in missing["1"]
        assert str(tmp_path) not in missing["1"]

    def test_two_nodes_that_report_one_file_both_have_it(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "gpu", "a.png")
        files = [pending(source, asset_id=asset_id) for asset_id in ("1", "2")]
        stored = store(tmp_path / "outputs", files)
        assert [file.storage_key for file in stored] == ["job/a.png", "job/a (2).png"]
        assert store(tmp_path / "outputs", files) == stored

    def test_an_input_file_that_a_node_shows_stays_where_it_is(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "gpu" / "input", "a.png")
        [stored] = store(tmp_path / "outputs", [pending(source)])
        assert stored.path_below(tmp_path / "outputs").read_bytes() == Path(source["path"]).read_bytes()

    @pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", ".hidden", "a/b.png"])
    def test_a_name_never_leaves_the_jobs_folder(self, tmp_path: Path, name: str) -> None:
        [stored] = store(tmp_path / "outputs", [pending({"text": "words"}, name=name)])
        assert stored.path_below(tmp_path / "outputs").resolve().parent == tmp_path / "outputs" / "job"

    def test_texts_become_files_and_a_job_can_be_removed(self, tmp_path: Path) -> None:
        [stored] = store(tmp_path / "outputs", [pending({"text": "Zürich"}, name="t.txt")])
        assert stored.path_below(tmp_path / "outputs").read_text(encoding="utf-8") == "Zürich"
        LocalStorage(tmp_path / "outputs").remove_folder("job")
        LocalStorage(tmp_path / "outputs").remove_folder("job")
        assert list((tmp_path / "outputs").iterdir()) == []

    def test_no_files_are_nothing_to_do(self, tmp_path: Path) -> None:
        assert store(tmp_path / "outputs", []) == []
        assert not (tmp_path / "outputs").exists()

    def test_a_doubled_message_waits_for_its_twin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused: list[str] = []

        def digest(path: Path) -> str:
            with (path.parent / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    refused.append(path.name)
            return "blake3:0"

        monkeypatch.setattr(store_module, "digest_of", digest)
        store(tmp_path / "outputs", [pending(saved(tmp_path / "gpu", "a.png"))])
        assert refused == ["a.png"]
        digest(tmp_path / "outputs" / "job" / "a.png")
        assert refused == ["a.png"], "it is let go"

    def test_a_text_that_was_cut_short_is_written_again(self, tmp_path: Path) -> None:
        file = pending({"text": "words"}, name="t.txt")
        (tmp_path / "outputs" / "job").mkdir(parents=True)
        (tmp_path / "outputs" / "job" / "t.txt").write_text("wo")
        [stored] = store(tmp_path / "outputs", [file])
        assert stored.path_below(tmp_path / "outputs").read_text() == "words"
        assert sorted(path.name for path in (tmp_path / "outputs" / "job").iterdir()) == [".lock", "t.txt"]

    def test_half_a_surrogate_is_written_as_far_as_that_goes(self, tmp_path: Path) -> None:
        [stored] = store(tmp_path / "outputs", [pending({"text": "a\ud83d"}, name="t.txt")])
        assert stored.path_below(tmp_path / "outputs").read_text(encoding="utf-8") == "a\ufffd"

    def test_the_jobs_own_folder_goes_with_its_last_file(self, tmp_path: Path) -> None:
        first = pending(saved(tmp_path / "gpu" / "job", "a.png"))
        second = pending(saved(tmp_path / "gpu" / "job", "b.png"), "b.png", "2")
        store(tmp_path / "outputs", [first])
        assert (tmp_path / "gpu" / "job").exists()
        store(tmp_path / "outputs", [first, second])
        assert not (tmp_path / "gpu" / "job").exists()

    def test_a_disk_that_fails_is_not_taken_for_a_file_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_path: Path) -> Path:
            raise OSError(5, "Input/output error")

        file = pending(saved(tmp_path / "gpu", "a.png"))
        monkeypatch.setattr(Path, "resolve", fail)
        with pytest.raises(OSError, match="Input/output error"):
            store(tmp_path / "outputs", [file], {})

    def test_a_link_that_leads_to_itself_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "gpu").mkdir()
        (tmp_path / "gpu" / "a.png").symlink_to("a.png")
        file = pending({"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / "a.png")})
        with pytest.raises(OutputUnavailable):
            store(tmp_path / "outputs", [file])

    @pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000])
    def test_what_cannot_be_a_name_is_said_to_be_none(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "gpu").mkdir()
        file = pending({"root": str(tmp_path / "gpu"), "path": str(tmp_path / "gpu" / name)})
        with pytest.raises(OutputUnavailable, match="that cannot be the name of a file"):
            store(tmp_path / "outputs", [file])

    def test_the_hash_is_that_of_the_whole_file(self, tmp_path: Path) -> None:
        content = b"0123456789abcdef" * 70_000
        (tmp_path / "a").write_bytes(content)
        assert digest_of(tmp_path / "a") == f"blake3:{blake3(content).hexdigest()}"


class Handout:
    """Takes the place of an instance's HTTP server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status, self.content = 200, b"picture"
        #: What breaks the connection.
        self.error: Exception | None = None
        self.asked: list[dict[str, Any]] = []
        #: How much was read at a time.
        self.read_bytes: list[int] = []
        handout = self

        def send(_self: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            handout.asked.append({"url": request.url, **options})
            if handout.error is not None:
                raise handout.error
            response = requests.Response()
            response.status_code, response.raw = handout.status, handout
            return response

        monkeypatch.setattr(HTTPAdapter, "send", send)

    def stream(self, chunk_bytes: int, *, decode_content: bool) -> Iterator[bytes]:
        self.read_bytes.append(chunk_bytes)
        yield self.content[:3]
        yield self.content[3:]

    def release_conn(self) -> None:
        """Nothing to release."""

    def close(self) -> None:
        """Nothing to close."""


class TestDownload:
    URL = "http://10.0.0.7:8188/view?filename=a.png"

    @pytest.fixture
    def handout(self, monkeypatch: pytest.MonkeyPatch) -> Handout:
        return Handout(monkeypatch)

    def test_a_file_of_another_machine_is_fetched(
        self, tmp_path: Path, handout: Handout, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
        [stored] = store(tmp_path / "outputs", [pending({"url": self.URL})])
        assert stored.path_below(tmp_path / "outputs").read_bytes() == b"picture"
        [asked] = handout.asked
        assert (asked["url"], asked["stream"], asked["timeout"]) == (self.URL, True, (2.0, 30.0))
        assert not asked["proxies"]
        assert handout.read_bytes == [2**20]
        assert sorted(path.name for path in (tmp_path / "outputs" / "job").iterdir()) == [".lock", "a.png"]

    def test_what_two_nodes_report_is_fetched_once(self, tmp_path: Path, handout: Handout) -> None:
        files = [pending({"url": self.URL}, asset_id=asset_id) for asset_id in ("1", "2")]
        stored = store(tmp_path / "outputs", files)
        assert [file.path_below(tmp_path / "outputs").read_bytes() for file in stored] == [b"picture"] * 2
        assert len(handout.asked) == 1

    @pytest.mark.parametrize("status", [400, 402, 403, 404, 406, 409, 424, 426, 428, 430, 499])
    def test_what_it_does_not_hand_out_is_missing(self, tmp_path: Path, handout: Handout, status: int) -> None:
        handout.status = status
        with pytest.raises(OutputUnavailable, match=rf"Node 9 .* a\.png: .* \({status}\)"):
            store(tmp_path / "outputs", [pending({"url": self.URL})])

    @pytest.mark.parametrize("status", [401, 407, 408, 425, 429, 500, 503])
    def test_what_may_be_otherwise_the_next_time_is_not(self, tmp_path: Path, handout: Handout, status: int) -> None:
        handout.status = status
        with pytest.raises(ComfyUnavailable):
            store(tmp_path / "outputs", [pending({"url": self.URL})], {})

    def test_an_instance_that_does_not_answer_is_said(self, tmp_path: Path, handout: Handout) -> None:
        handout.error = requests.ConnectionError("refused")
        with pytest.raises(ComfyUnavailable, match="does not answer"):
            store(tmp_path / "outputs", [pending({"url": self.URL})], {})
        assert not (tmp_path / "outputs" / "job" / "a.png").exists()


@pytest.mark.parametrize(
    ("name", "taken", "free"),
    [
        ("a.png", (), "a.png"),
        ("a.png", ("a.png",), "a (2).png"),
        ("a.png", ("a.png", "a (2).png"), "a (3).png"),
        ("/x/a.png", (), "a.png"),
        ("..", (), "output"),
        ("", ("output",), "output (2)"),
    ],
)
def test_a_name_that_is_taken_gets_a_number(name: str, taken: tuple[str, ...], free: str) -> None:
    names = set(taken)
    assert free_name(name, names) == free
    assert names == {*taken, free}
