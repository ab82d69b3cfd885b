"""What is removed of an instance's files, and above all what is not."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from comfy.process.cleanup import DEEPEST, free_bytes, remove_job_files, remove_old_files

HOUR_S = 3600.0


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "gpu0"
    for root in ("output", "input", "temp", "user"):
        (folder / root).mkdir(parents=True)
    return folder


def write(path: Path, *, age_s: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")
    return age(path, age_s)


def age(path: Path, age_s: float) -> Path:
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))
    return path


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


ROOTS = ["input", "output", "temp", "user"]


class TestOldFiles:
    def test_old_files_go_and_new_ones_stay(self, data_dir: Path) -> None:
        write(data_dir / "output" / "old.png", age_s=2 * HOUR_S)
        write(data_dir / "input" / "job" / "old.png", age_s=2 * HOUR_S)
        write(data_dir / "temp" / "a" / "b" / "old.png", age_s=2 * HOUR_S)
        write(data_dir / "output" / "new.png", age_s=HOUR_S / 2)
        write(data_dir / "output" / "job" / "new.png")
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 3
        assert [path for path in left(data_dir) if path.endswith(".png")] == ["output/job/new.png", "output/new.png"]

    def test_nothing_but_the_three_roots_is_looked_at(self, data_dir: Path) -> None:
        for name in ("comfyui.log", "instance.pid", "user/comfyui.db"):
            write(data_dir / name, age_s=2 * HOUR_S)
        before = left(data_dir)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 0
        assert left(data_dir) == before

    def test_directories_left_empty_go_with_their_files_but_the_roots_stay(self, data_dir: Path) -> None:
        write(data_dir / "output" / "job" / "deep" / "old.png", age_s=2 * HOUR_S)
        for folder in ("output/job/deep", "output/job", "output"):
            age(data_dir / folder, 2 * HOUR_S)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 1
        assert left(data_dir) == ROOTS

    def test_a_directory_just_made_may_be_about_to_be_used(self, data_dir: Path) -> None:
        (data_dir / "output" / "job").mkdir()
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 0
        assert left(data_dir / "output") == ["job"]
        age(data_dir / "output" / "job", 2 * HOUR_S)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 0
        assert left(data_dir) == ROOTS

    def test_links_are_neither_followed_nor_removed(self, data_dir: Path, tmp_path: Path) -> None:
        outside = write(tmp_path / "outside" / "kept.png", age_s=2 * HOUR_S)
        (data_dir / "output" / "folder").symlink_to(outside.parent)
        (data_dir / "output" / "file.png").symlink_to(outside)
        os.utime(data_dir / "output" / "file.png", (0, 0), follow_symlinks=False)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 0
        assert outside.exists()
        assert left(data_dir / "output") == ["file.png", "folder"]

    def test_a_root_that_is_a_link_is_left_alone(self, data_dir: Path, tmp_path: Path) -> None:
        outside = write(tmp_path / "outside" / "kept.png", age_s=2 * HOUR_S)
        (data_dir / "output").rmdir()
        (data_dir / "output").symlink_to(outside.parent)
        write(data_dir / "temp" / "old.png", age_s=2 * HOUR_S)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 1
        assert outside.exists()

    def test_an_instance_that_never_ran_has_no_files(self, tmp_path: Path) -> None:
        assert remove_old_files(tmp_path / "gpu7", older_than_s=0) == 0

    def test_what_lies_too_deep_is_left_alone(self, data_dir: Path) -> None:
        deep = data_dir / "output" / Path(*["d"] * DEEPEST)
        above = write(deep.parent / "old.png", age_s=2 * HOUR_S)
        kept = write(deep / "old.png", age_s=2 * HOUR_S)
        assert remove_old_files(data_dir, older_than_s=HOUR_S) == 1
        assert (above.exists(), kept.exists()) == (False, True)

    def test_files_that_vanish_meanwhile_are_passed_over(self, data_dir: Path) -> None:
        for folder in range(40):
            for number in range(25):
                write(data_dir / "output" / str(folder) / f"{number}.png", age_s=2 * HOUR_S)
            age(data_dir / "output" / str(folder), 2 * HOUR_S)
        counts: list[int] = []

        def tidy() -> None:
            counts.append(remove_old_files(data_dir, older_than_s=HOUR_S))

        others = [threading.Thread(target=tidy) for _ in range(3)]
        for other in others:
            other.start()
        shutil.rmtree(data_dir / "output" / "39", ignore_errors=True)
        for other in others:
            other.join()
        assert len(counts) == 3, "none of them was stopped by an error"
        assert 975 <= sum(counts) <= 1000, "each file counts for the one that removed it"
        remove_old_files(data_dir, older_than_s=0)
        assert not list((data_dir / "output").rglob("*.png"))


class TestJobFiles:
    def test_all_of_a_job_goes_and_nothing_else(self, data_dir: Path) -> None:
        for root in ("output", "input", "temp"):
            write(data_dir / root / "job-1" / "deep" / "a.png")
            write(data_dir / root / "job-2" / "a.png")
        remove_job_files(data_dir, "job-1")
        remove_job_files(data_dir, "job-1")
        assert [path.name for root in ("output", "input", "temp") for path in (data_dir / root).iterdir()] == [
            "job-2",
            "job-2",
            "job-2",
        ]

    @pytest.mark.parametrize("job_id", ["", ".", "..", "a/b", "../user", "/etc", "a\n", "a" * 129])
    def test_what_is_no_plain_name_is_refused(self, job_id: str, data_dir: Path) -> None:
        before = left(data_dir)
        with pytest.raises(ValueError, match="folder name"):
            remove_job_files(data_dir, job_id)
        assert left(data_dir) == before

    @pytest.mark.parametrize("link", ["output", "output/job"])
    def test_links_are_not_followed(self, link: str, data_dir: Path, tmp_path: Path) -> None:
        outside = write(tmp_path / "outside" / "job" / "kept.png")
        shutil.rmtree(data_dir / "output")
        (data_dir / link).parent.mkdir(exist_ok=True)
        (data_dir / link).symlink_to(outside.parent if link == "output/job" else outside.parent.parent)
        remove_job_files(data_dir, "job")
        assert outside.exists()


def test_free_space_is_that_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    file = write(tmp_path / "file")
    expected = shutil.disk_usage(tmp_path).free
    for path in (tmp_path, tmp_path / "not" / "yet" / "there", file / "below a file"):
        # Others write to the same disk meanwhile.
        assert abs(free_bytes(path) - expected) < 2**30
    assert expected > 0


def test_what_is_still_wanted_stays_whatever_its_age(tmp_path: Path) -> None:
    for job_id in ("wanted", "forgotten"):
        file = tmp_path / "output" / job_id / "sub" / "a.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        os.utime(file, (0, 0))

    assert remove_old_files(tmp_path, older_than_s=HOUR_S, spare=["wanted"]) == 1

    assert (tmp_path / "output" / "wanted" / "sub" / "a.png").exists()
