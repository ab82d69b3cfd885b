"""What an instance reports becomes records that the ledger can keep and an io worker can find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from core.ledger import Ledger
from core.records.instance import InstanceRecord
from core.records.output import FileSource
from tasks.runner.output_files import MAX_INLINE_CHARS, output_files, sent_files, written_down
from tests.makers import come_up, saved_file


@pytest.fixture
def ours(ledger: Ledger) -> InstanceRecord:
    """An instance of this machine."""
    return come_up(ledger, output_dir="/gpu0/output", url="http://127.0.0.1:8188")


@pytest.fixture
def elsewhere(ours: InstanceRecord) -> InstanceRecord:
    return replace(ours, output_dir=None)


def text(words: str | None, **fields: Any) -> Any:
    values: dict[str, Any] = {"filename": None, "kind": "text", "key": "text", "content_type": "text/plain"}
    return saved_file("", **{**values, "text": words, **fields})


def reported(instance: InstanceRecord, *items: Any) -> list[Any]:
    return output_files("j1", list(items), instance)


class TestFiles:
    def test_one_of_ours_lies_on_the_disk(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, saved_file("a.png", subfolder="j1", content_type="image/png"))
        assert (file.job_id, file.node_id, file.name, file.kind) == ("j1", "2", "a.png", "image")
        assert (file.content_type, file.folder, file.comfy_key, file.subfolder) == (
            "image/png",
            "output",
            "images",
            "j1",
        )
        assert file.source == FileSource(root="/gpu0/output", path="/gpu0/output/j1/a.png")

    def test_a_preview_lies_beside(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, saved_file("a.png", folder="temp", subfolder=None))
        assert (file.folder, file.subfolder) == ("temp", "")
        assert file.source == FileSource(root="/gpu0/temp", path="/gpu0/temp/a.png")

    def test_one_without_a_word_for_its_folder_is_an_output(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, saved_file("a.png", folder=None))
        assert (file.folder, file.source.path) == ("output", "/gpu0/output/a.png")

    @pytest.mark.parametrize("subfolder", ["..", "../../etc"])
    def test_a_name_that_leads_out_is_told_of_where_it_is_stored(self, ours: InstanceRecord, subfolder: str) -> None:
        [file] = reported(ours, saved_file("a.png", subfolder=subfolder))
        assert file.source == FileSource(root="/gpu0/output", path=f"/gpu0/output/{subfolder}/a.png")

    def test_one_of_another_machine_is_handed_out_by_it(self, elsewhere: InstanceRecord) -> None:
        item = saved_file("a ü.png", subfolder="x&y", folder="temp")
        [file, plain, odd] = reported(
            elsewhere, item, saved_file("b.png", subfolder=None, folder=None), saved_file("c\ud83d.png")
        )
        url = urlsplit(file.source.url)
        assert (url.scheme, url.netloc, url.path) == ("http", "127.0.0.1:8188", "/view")
        assert parse_qs(url.query) == {"filename": ["a ü.png"], "subfolder": ["x&y"], "type": ["temp"]}
        assert plain.source.url.endswith("/view?filename=b.png&subfolder=&type=output")
        assert "filename=c%3F.png" in odd.source.url
        assert file.source.path is file.source.root is None

    @pytest.mark.parametrize(
        ("filename", "name"),
        [
            ("a/b/c.png", "c.png"),
            ("a\\c.png", "c.png"),
            ("c/", "c"),
            ("/", "output"),
            ("a\0\n\ud83d.png", "a.png"),
            ("x" * 200, "x" * 200),
            ("x" * 196 + ".webp", "x" * 188 + "xxxxxxx.webp"),
        ],
    )
    def test_names_are_such_as_a_database_can_keep(self, ours: InstanceRecord, filename: str, name: str) -> None:
        [file] = reported(ours, saved_file(filename))
        assert file.name == name

    def test_other_texts_too(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, saved_file("a.png", "n" * 300, key="k\0" + "k" * 70, subfolder="s\0s"))
        assert (file.node_id, file.comfy_key, file.subfolder) == ("n" * 255, "k" * 64, "ss")

    def test_each_is_one_of_its_own(self, ours: InstanceRecord) -> None:
        files = reported(ours, saved_file("a.png"), saved_file("a.png"))
        assert files[0].id != files[1].id


class TestTexts:
    def test_they_are_named_by_node_and_place(self, ours: InstanceRecord) -> None:
        files = reported(ours, saved_file("a.png"), text("words"), text("{}", content_type="application/json"))
        assert [file.name for file in files] == ["a.png", "text_2_00001.txt", "text_2_00002.json"]
        assert [file.source for file in files[1:]] == [FileSource(text="words"), FileSource(text="{}")]
        assert files[1].folder == "output"

    def test_what_is_no_text_is_an_empty_one(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, text(None))
        assert file.source == FileSource(text="")

    def test_half_a_surrogate_is_written_as_far_as_that_goes(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, text("a\ud83d"))
        assert file.source.text == "a\ufffd"

    def test_a_long_node_id_leaves_the_end_of_the_name(self, ours: InstanceRecord) -> None:
        [file] = reported(ours, text("words", node_id="n" * 300))
        assert len(file.name) == 200
        assert file.name.endswith("n_00000.txt")

    @pytest.mark.parametrize(("count", "is_written"), [(MAX_INLINE_CHARS, False), (MAX_INLINE_CHARS + 1, True)])
    def test_long_ones_are_written_to_disk(
        self, ours: InstanceRecord, tmp_path: Path, count: int, is_written: bool
    ) -> None:
        assert MAX_INLINE_CHARS == 65_536
        files = reported(ours, text("short"), text("ü" * count), saved_file("a.png"))
        written = written_down(files, tmp_path / "output" / "j1")
        path = tmp_path / "output" / "j1" / "long_text_00001"
        assert path.exists() == is_written
        assert [written[0], written[2]] == [files[0], files[2]]
        if is_written:
            assert path.read_text(encoding="utf-8") == "ü" * count
            assert written[1].source == FileSource(root=str(tmp_path / "output"), path=str(path))
        else:
            assert written[1] == files[1]
        assert written_down(files, tmp_path / "output" / "j1") == written, "again, as after a crash"


class TestSent:
    def test_pictures_that_were_sent_are_written_down(self, tmp_path: Path) -> None:
        folder = tmp_path / "output" / "j1"
        files = sent_files("j1", [("4", b"one"), ("5", b"two")], folder)
        assert [(file.node_id, file.name) for file in files] == [
            ("4", "websocket_00001_.png"),
            ("5", "websocket_00002_.png"),
        ]
        assert [Path(file.source.path or "").read_bytes() for file in files] == [b"one", b"two"]
        assert {(file.job_id, file.kind, file.content_type, file.subfolder, file.source.root) for file in files} == {
            ("j1", "image", "image/png", "j1", str(tmp_path / "output"))
        }
        assert files[0].id != files[1].id
        assert sent_files("j1", [("4", b"one")], folder)[0].name == "websocket_00001_.png"

    def test_none_need_no_folder(self, tmp_path: Path) -> None:
        assert sent_files("j1", [], tmp_path / "output" / "j1") == []
        assert not (tmp_path / "output").exists()
