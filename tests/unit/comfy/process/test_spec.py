"""What an instance is started with, its log, and which process is which: nothing here needs a server."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfy.liveness.procfs import ProcessIdentity, group_members, with_variable
from comfy.process import log
from comfy.process.spec import (
    InstanceSpec,
    clean_environment,
    command_line,
    make_directories,
    working_directory,
    write_files,
)
from core.errors import ConfigurationError


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    checkout = tmp_path / "ComfyUI"
    checkout.mkdir()
    (checkout / "main.py").touch()
    return InstanceSpec(
        name="gpu1",
        gpu="1",
        kind="comfyui",
        data_dir=tmp_path / "gpu1",
        comfyui_dir=checkout,
        comfyui_python=Path(sys.executable),
    )


def value_of(command: list[str], option: str) -> str:
    """What argparse would take: the last one."""
    last = len(command) - 1 - command[::-1].index(option)
    return command[last + 1]


def test_a_comfyui_gets_directories_of_its_own(spec: InstanceSpec, tmp_path: Path) -> None:
    command = command_line(spec, 18188)
    own = str(tmp_path / "gpu1")
    assert command[:2] == [sys.executable, "main.py"]
    assert "--disable-auto-launch" in command
    assert value_of(command, "--listen") == "127.0.0.1"
    assert value_of(command, "--port") == "18188"
    assert value_of(command, "--output-directory") == f"{own}/output"
    assert value_of(command, "--input-directory") == f"{own}/input"
    assert value_of(command, "--temp-directory") == own, "ComfyUI appends temp itself"
    assert value_of(command, "--user-directory") == f"{own}/user"
    assert value_of(command, "--database-url") == f"sqlite:///{own}/user/comfyui.db"
    assert working_directory(spec) == tmp_path / "ComfyUI"


def test_paths_do_not_depend_on_the_working_directory(
    spec: InstanceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = dataclasses.replace(spec, data_dir=Path("gpu1"), comfyui_dir=Path("ComfyUI"))
    assert command_line(relative, 1) == command_line(spec, 1)
    assert working_directory(relative) == working_directory(spec)


def test_a_virtual_environment_is_not_resolved_away(spec: InstanceSpec, tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert command_line(dataclasses.replace(spec, comfyui_python=link), 1)[0] == str(link)


def test_the_checkouts_own_interpreter_is_found(spec: InstanceSpec, tmp_path: Path) -> None:
    unsaid = dataclasses.replace(spec, comfyui_python=None)
    assert Path(command_line(unsaid, 1)[0]).name == "python3"
    (tmp_path / "ComfyUI/venv/bin").mkdir(parents=True)
    (tmp_path / "ComfyUI/venv/bin/python").symlink_to(sys.executable)
    assert command_line(unsaid, 1)[0] == str(tmp_path / "ComfyUI/venv/bin/python")


def test_extra_arguments_cannot_open_the_instance_to_the_network(spec: InstanceSpec) -> None:
    command = command_line(dataclasses.replace(spec, extra_args=("--cache-lru", "4", "--listen", "0.0.0.0")), 1)
    assert value_of(command, "--cache-lru") == "4"
    assert value_of(command, "--listen") == "127.0.0.1"


@pytest.mark.parametrize("argument", ["--cuda-device", "--cuda-device=0", "--cuda-d", "--default-device"])
def test_extra_arguments_cannot_move_the_gpu(spec: InstanceSpec, argument: str) -> None:
    with pytest.raises(ConfigurationError, match="its own GPU"):
        command_line(dataclasses.replace(spec, extra_args=(argument,)), 1)


def test_a_simulator_starts_where_our_comfy_is(spec: InstanceSpec) -> None:
    simulator = dataclasses.replace(spec, kind="simulator", comfyui_dir=None, comfyui_python=None, gpu=None)
    assert command_line(simulator, 1)[:3] == [sys.executable, "-m", "comfy.simulator"]
    assert (working_directory(simulator) / "comfy" / "simulator" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"comfyui_dir": None}, "ComfyUI checkout"),
        ({"comfyui_dir": Path("/nowhere")}, "main.py"),
        ({"comfyui_python": Path("/nowhere/python")}, "/nowhere/python"),
    ],
)
def test_a_wrong_checkout_is_named(spec: InstanceSpec, wrong: dict[str, Path | None], named: str) -> None:
    broken = dataclasses.replace(spec, **wrong)  # type: ignore[arg-type]  # the table mixes fields
    with pytest.raises(ConfigurationError, match=named):
        print(working_directory(broken), command_line(broken, 1))


def test_the_environment_is_chosen_name_by_name(spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", "/models/hf")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("COMFYLINE_SECRET_KEY", "secret")
    monkeypatch.setenv("WEBHOOK_SECRET", "secret")
    monkeypatch.setenv("HOME", "/home/fleet")
    assert clean_environment(spec) == {
        "PATH": os.defpath,
        "HOME": "/home/fleet",
        "LANG": "C.UTF-8",
        "HF_HOME": "/models/hf",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "1",
        "PYTHONUNBUFFERED": "1",
    }
    assert clean_environment(dataclasses.replace(spec, gpu=None))["CUDA_VISIBLE_DEVICES"] == ""


def test_directories_are_made_and_kept(spec: InstanceSpec) -> None:
    make_directories(spec)
    (spec.data_dir / "output" / "kept.png").touch()
    make_directories(spec)
    assert sorted(path.name for path in spec.data_dir.iterdir()) == ["input", "output", "temp", "user"]
    assert (spec.data_dir / "output" / "kept.png").exists()


def test_shared_models_are_named_to_a_comfyui(spec: InstanceSpec, tmp_path: Path) -> None:
    assert "--extra-model-paths-config" not in command_line(spec, 1)
    extra_args = ("--extra-model-paths-config", "/mine.yaml")
    shared = dataclasses.replace(spec, models_dir=tmp_path / "models", extra_args=extra_args)
    (tmp_path / "models" / "vae").mkdir(parents=True)
    make_directories(shared)
    write_files(shared)

    command = command_line(shared, 1)

    # The option takes several values, so another option has to follow it.
    first, second = (place for place, word in enumerate(command) if word == "--extra-model-paths-config")
    assert command[first + 1 : second] == ["/mine.yaml"]
    assert command[second + 1 : second + 3] == [str(spec.data_dir / "extra_model_paths.yaml"), "--listen"]
    assert '"vae": "vae"' in (spec.data_dir / "extra_model_paths.yaml").read_text()


def test_who_is_attached_reads_what_its_owner_says(spec: InstanceSpec, tmp_path: Path) -> None:
    attached = dataclasses.replace(spec, kind="attached", models_dir=tmp_path / "models")
    make_directories(attached)
    write_files(attached)
    assert not (spec.data_dir / "extra_model_paths.yaml").exists()


class TestLog:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(log, "ROTATE_SIZE_BYTES", 10)
        return tmp_path / "comfyui.log"

    def old(self, path: Path, number: int) -> str:
        return path.with_name(f"{path.name}.{number}").read_text()

    def test_one_that_grew_too_large_is_put_aside_at_a_start(self, path: Path) -> None:
        for text in ("first", " still first", "second"):
            with log.open_log(path) as file:
                file.write(text.encode())
        assert path.read_text() == "second"
        assert self.old(path, 1) == "first still first"

    def test_two_old_ones_are_kept(self, path: Path) -> None:
        for number in range(4):
            path.write_text(f"{number}" * 11)
            assert log.rotate(path)
        assert (path.read_text(), self.old(path, 1), self.old(path, 2)) == ("", "3" * 11, "2" * 11)
        assert len(list(path.parent.iterdir())) == 3

    def test_one_that_is_small_or_not_there_stays_as_it_is(self, path: Path) -> None:
        assert not log.rotate(path)
        path.write_text("0123456789")
        assert not log.rotate(path)
        assert path.read_text() == "0123456789"

    def test_whoever_holds_it_open_goes_on_at_its_new_end(self, path: Path) -> None:
        with log.open_log(path) as file:
            file.write(b"long enough")
            file.flush()
            assert log.rotate(path)
            file.write(b"after")
        assert path.read_bytes() == b"after"

    def test_of_one_that_ran_away_only_the_end_is_copied(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(log, "COPY_SIZE_BYTES", 4)
        path.write_text("a" * 100 + "last")
        assert log.rotate(path)
        assert self.old(path, 1) == "last"

    def test_it_gives_way_also_where_a_copy_cannot_be_written(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.with_name("comfyui.log.new").mkdir()
        path.write_text("a" * 100)
        assert log.rotate(path)
        assert path.read_text() == ""
        assert "without a copy" in caplog.text

    def test_its_tail_is_short_and_only_of_this_start(self, path: Path) -> None:
        assert log.tail(path, 0) == ""
        path.write_text("before\n" + "".join(f"line {number}\n" for number in range(10_000)))
        assert log.tail(path, 0).splitlines() == [f"line {number}" for number in range(9_980, 10_000)]
        path.write_bytes(b"before\n\xff after")
        assert log.tail(path, len("before\n")) == "\ufffd after"

    def test_its_tail_is_found_after_it_was_emptied(self, path: Path) -> None:
        path.write_text("last words")
        assert log.tail(path, 5_000) == "last words"


def test_a_process_is_told_from_another_with_its_number() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    assert me.is_alive()
    assert not dataclasses.replace(me, start_ticks=me.start_ticks + 1).is_alive()
    assert not dataclasses.replace(me, boot_id="another boot").is_alive()
    with subprocess.Popen(["sleep", "60"], env={"MARK": "a b"}, start_new_session=True) as other:
        identity = ProcessIdentity.of(other.pid)
        assert identity is not None
        assert list(group_members(other.pid)) == [other.pid]
        assert with_variable("MARK", "a b") == [other.pid]
        assert with_variable("MARK", "a") == []
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert not identity.is_alive(), "a process that only waits to be noticed is dead"
    assert not identity.is_alive()
    assert ProcessIdentity.of(other.pid) is None
