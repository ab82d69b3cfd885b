"""A job's files are finished as their client wants them, once, whatever happens in between."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from core.errors import OutputNotConvertible, OutputUnavailable
from core.records.output import OutputFile
from core.storage.placing import digest_of
from tasks.outputs import finishing
from tasks.outputs.convert import Conversion
from tasks.outputs.finishing import NOT_STRIPPED, ORIGINALS, RECORD, discard_originals, store_finished
from tests.unit.tasks.outputs.reported import pending, saved

WEBP = Conversion(format="webp", quality=80, lossless=False, strip_metadata=False)
STRIPPED = Conversion(format=None, quality=0, lossless=False, strip_metadata=True)


def picture(form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def gpu(tmp_path: Path) -> Path:
    """Where ComfyUI has its files."""
    return tmp_path / "gpu"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def files(gpu: Path) -> list[OutputFile]:
    """One picture."""
    return [pending(saved(gpu, "a.png", picture()))]


def record_of(root: Path) -> Path:
    return root / "job" / ORIGINALS / RECORD


def never(*_arguments: object) -> None:
    raise AssertionError("it was done twice")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


class TestFinishing:
    def test_a_picture_becomes_what_was_wanted(self, root: Path, files: list[OutputFile]) -> None:
        [done] = store_finished(root, files, WEBP)
        target = root / "job" / "a.webp"
        assert (done.name, done.content_type, done.storage_key) == ("a.webp", "image/webp", "job/a.webp")
        assert (done.size_bytes, done.hash) == (target.stat().st_size, digest_of(target))
        assert done.conversion_error is None
        with Image.open(target) as image:
            assert (image.format, image.size) == ("WEBP", (8, 6))
        assert names_in(root / "job") == [ORIGINALS, "a.webp"]
        assert names_in(root / "job" / ORIGINALS / "job") == ["a.png"]

    def test_no_files_are_nothing_to_do(self, root: Path) -> None:
        assert store_finished(root, [], WEBP) == []
        assert not root.exists()

    def test_what_would_have_one_name_gets_two(self, root: Path, gpu: Path) -> None:
        first = pending(saved(gpu, "a.png", picture()))
        second = pending(saved(gpu, "a.jpg", picture("JPEG")), "a.jpg", "2", content_type="image/jpeg")
        done = store_finished(root, [first, second], WEBP)
        assert [file.storage_key for file in done] == ["job/a.webp", "job/a (2).webp"]
        assert [file.name for file in done] == ["a.webp", "a.webp"], "in the ledger they need not differ"

    def test_what_is_damaged_stays_as_it_is_and_says_so(self, root: Path, gpu: Path) -> None:
        [done] = store_finished(root, [pending(saved(gpu, "a.png", b"no picture"))], WEBP)
        assert (done.name, done.storage_key) == ("a.png", "job/a.png")
        assert done.conversion_error
        assert done.path_below(root).read_bytes() == b"no picture"

    def test_half_of_a_conversion_is_not_taken(
        self, root: Path, files: list[OutputFile], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_source: Path, target: Path, *_more: object) -> None:
            target.write_bytes(b"half")
            raise OutputNotConvertible("too large")

        monkeypatch.setattr(finishing, "convert", fail)
        [done] = store_finished(root, files, WEBP)
        assert done.conversion_error == "too large"
        assert done.path_below(root).read_bytes() == picture()
        assert names_in(root / "job") == [ORIGINALS, "a.png"]

    def test_what_a_killed_turn_has_left_is_not_taken(self, root: Path, gpu: Path) -> None:
        (root / "job").mkdir(parents=True)
        (root / "job" / ".finish.part").write_bytes(b"half")
        (root / "job" / "a.bin").write_bytes(b"older")
        [done] = store_finished(root, [pending(saved(gpu, "a.bin", b"new"), "a.bin", content_type="x/y")], WEBP)
        assert done.path_below(root).read_bytes() == b"new"
        assert done.path_below(root).stat().st_nlink == 2, "the one that was in the way was taken away first"

    def test_what_is_kept_takes_no_room_of_its_own(
        self, root: Path, gpu: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = pending(saved(gpu, "a.bin", b"1"), "a.bin", content_type="x/y")
        [done] = store_finished(root, [first], WEBP)
        assert done.path_below(root).stat().st_nlink == 2

        def refuse(*_arguments: object) -> None:
            raise OSError(95, "Operation not supported")

        discard_originals(root, "job")
        monkeypatch.setattr(os, "link", refuse)
        second = pending(saved(gpu, "b.bin", b"2"), "b.bin", content_type="x/y")
        [done] = store_finished(root, [second], WEBP)
        assert done.path_below(root).stat().st_nlink == 1
        assert done.path_below(root).read_bytes() == b"2"


class TestStripping:
    def test_metadata_goes(self, root: Path, files: list[OutputFile], gpu: Path) -> None:
        data = picture()
        chunk = b"\0\0\0\x0btEXtprompt\0text" + b"\x7f\x4f\x6c\x2a"
        saved(gpu, "a.png", data[:33] + chunk + data[33:])
        [done] = store_finished(root, files, STRIPPED)
        assert done.path_below(root).read_bytes() == data
        assert (done.name, done.conversion_error) == ("a.png", None)

    def test_an_unknown_kind_is_said(self, root: Path, gpu: Path) -> None:
        [done] = store_finished(root, [pending(saved(gpu, "a.x", b"abc"), "a.x", content_type="x/y")], STRIPPED)
        assert done.conversion_error == NOT_STRIPPED
        assert done.path_below(root).read_bytes() == b"abc"

    def test_of_a_text_nobody_says_it(self, root: Path) -> None:
        [done] = store_finished(root, [pending({"text": "words"}, "a.txt", content_type="text/plain")], STRIPPED)
        assert done.conversion_error is None

    def test_an_unknown_kind_is_not_said_where_nothing_was_to_go(self, root: Path, gpu: Path) -> None:
        [done] = store_finished(root, [pending(saved(gpu, "a.x", b"abc"), "a.x", content_type="x/y")], WEBP)
        assert done.conversion_error is None


class TestDoneBefore:
    @pytest.mark.parametrize("missing", [None, {}])
    def test_it_is_not_done_twice(
        self,
        root: Path,
        files: list[OutputFile],
        monkeypatch: pytest.MonkeyPatch,
        missing: dict[str, str] | None,
    ) -> None:
        done = store_finished(root, files, WEBP, missing)
        monkeypatch.setattr(finishing, "convert", never)
        monkeypatch.setattr(finishing, "store", never)
        assert store_finished(root, files, WEBP, missing) == done

    def test_by_an_earlier_release(self, root: Path, files: list[OutputFile], monkeypatch: pytest.MonkeyPatch) -> None:
        done = store_finished(root, files, WEBP)
        record = record_of(root)
        record.write_text(json.dumps(json.loads(record.read_text())["done"]))
        monkeypatch.setattr(finishing, "convert", never)
        assert store_finished(root, files, WEBP) == done

    @pytest.mark.parametrize("text", ["", "{}", "[1]", "null", '{"done": [], "missing": 7}', "[" * 100_000])
    def test_a_record_that_cannot_be_read_is_made_anew(
        self, root: Path, files: list[OutputFile], caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        done = store_finished(root, files, WEBP)
        whole = record_of(root).read_text()
        record_of(root).write_text(text)
        assert store_finished(root, files, WEBP) == done
        assert record_of(root).read_text() == whole
        assert "are finished again" in caplog.text

    def test_a_record_of_other_files_is_made_anew(
        self, root: Path, files: list[OutputFile], gpu: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store_finished(root, files, WEBP)
        others = [pending(saved(gpu, "b.png", picture()), "b.png", "2")]
        assert [file.name for file in store_finished(root, others, WEBP)] == ["b.webp"]
        assert caplog.text == ""

    @pytest.mark.parametrize("is_gone", [True, False])
    def test_a_file_that_is_not_whole_is_made_again(
        self, root: Path, files: list[OutputFile], caplog: pytest.LogCaptureFixture, is_gone: bool
    ) -> None:
        [done] = store_finished(root, files, WEBP)
        target, whole = root / "job" / "a.webp", (root / "job" / "a.webp").read_bytes()
        target.unlink()
        if not is_gone:
            target.write_bytes(whole[:-1])
        assert store_finished(root, files, WEBP) == [done]
        assert target.read_bytes() == whole
        assert caplog.text == ""

    def test_originals_are_discarded(self, root: Path, files: list[OutputFile]) -> None:
        store_finished(root, files, WEBP)
        discard_originals(root, "job")
        discard_originals(root, "job")
        assert names_in(root / "job") == ["a.webp"]


class TestMissing:
    @pytest.fixture
    def incomplete(self, gpu: Path, files: list[OutputFile]) -> list[OutputFile]:
        """A file that is there behind one that is not."""
        gone = pending({"root": str(gpu), "path": str(gpu / "gone.png")}, "gone.png", "2")
        return [gone, *files]

    def test_it_is_told_and_the_others_come(self, root: Path, incomplete: list[OutputFile]) -> None:
        missing: dict[str, str] = {"0": "before"}
        done = store_finished(root, incomplete, WEBP, missing)
        assert [file.id for file in done] == ["1"]
        assert sorted(missing) == ["0", "2"]
        again: dict[str, str] = {}
        assert store_finished(root, incomplete, WEBP, again) == done
        assert again == {"2": missing["2"]}

    def test_it_is_raised_where_nobody_asks(self, root: Path, incomplete: list[OutputFile]) -> None:
        with pytest.raises(OutputUnavailable):
            store_finished(root, incomplete, WEBP)

    def test_what_is_done_again_is_told_again(self, root: Path, incomplete: list[OutputFile], gpu: Path) -> None:
        store_finished(root, incomplete, WEBP, {})
        (root / "job" / "a.webp").write_bytes(b"half")
        saved(gpu, "gone.png", picture())
        missing: dict[str, str] = {}
        done = store_finished(root, incomplete, WEBP, missing)
        assert [file.id for file in done] == ["2", "1"]
        assert missing == {}
