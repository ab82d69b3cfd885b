"""A job's files come into storage whole, under names of their own, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import OutputUnavailable
from core.storage.folders import LocalStorage
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
