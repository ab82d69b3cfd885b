"""The file that tells ComfyUI where shared models lie, read back as YAML would be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfy.process.model_paths import KINDS, write_model_paths
from comfy.simulator.machine.extra_paths import read_extra_paths


def read_back(path: Path) -> dict[str, str]:
    """The one section of the file. Understands no more YAML than the file may use."""
    head, *lines = path.read_text(encoding="ascii").splitlines()
    assert head == "comfyline:"
    section = {}
    for line in lines:
        matched = re.fullmatch(r'  (base_path|"(?:[^"\\]|\\.)*"): ("(?:[^"\\]|\\.)*")', line)
        assert matched is not None, line
        key, value = (scalar(text) for text in matched.groups())
        section[key] = value
    return section


def scalar(text: str) -> str:
    return text[1:-1].encode("ascii").decode("unicode_escape") if text.startswith('"') else text


def others(section: dict[str, str]) -> set[str]:
    """The folders that are named beside ComfyUI's own kinds."""
    return set(section) - {"base_path", *KINDS}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "gpu0"
    folder.mkdir()
    return folder


def test_each_folder_of_models_is_named(models: Path, data_dir: Path) -> None:
    for name in ("loras", "checkpoints"):
        (models / name).mkdir()
    (models / "README.md").touch()
    path = write_model_paths(data_dir, models)
    assert path == data_dir / "extra_model_paths.yaml"
    head, first, second, *_ = path.read_text().splitlines()
    assert (head, first, second) == ("comfyline:", f'  base_path: "{models}"', '  "audio_encoders": "audio_encoders"')
    assert '  "loras": "loras"' in path.read_text().splitlines()
    assert [entry.name for entry in data_dir.iterdir()] == ["extra_model_paths.yaml"]


def test_a_folder_that_is_a_link_counts(models: Path, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (models / "ipadapter").symlink_to(tmp_path / "elsewhere")
    (models / "insightface").symlink_to(tmp_path / "nowhere")
    assert others(read_back(write_model_paths(data_dir, models))) == {"ipadapter"}


def test_the_file_says_what_is_there_at_the_time(models: Path, data_dir: Path) -> None:
    (models / "ipadapter").mkdir()
    write_model_paths(data_dir, models)
    (models / "ipadapter").rmdir()
    (models / "insightface").mkdir()
    assert others(read_back(write_model_paths(data_dir, models))) == {"insightface"}


def test_kinds_of_comfyuis_own_are_named_before_they_are_there(models: Path, data_dir: Path) -> None:
    """ComfyUI never looks into a folder that it was not told of at its start, and files may be fetched later."""
    section = read_back(write_model_paths(data_dir, models))
    assert section == {"base_path": str(models)} | {kind: kind for kind in KINDS}
    assert {"checkpoints", "diffusion_models", "text_encoders", "loras", "vae"} <= set(KINDS)


def test_programs_and_words_of_the_format_are_no_models(models: Path, data_dir: Path) -> None:
    for name in ("custom_nodes", "base_path", "is_default", ".cache", "two\nlines", "ipadapter"):
        (models / name).mkdir()
    section = read_back(write_model_paths(data_dir, models))
    assert (section["base_path"], others(section)) == (str(models), {"ipadapter"})


@pytest.mark.parametrize("name", ["no", "123", "a: b #c", 'say "x"', "back\\slash", "tab\tbed", "Modèle", "模型", "🎨"])
def test_any_name_survives(name: str, tmp_path: Path, data_dir: Path) -> None:
    models = tmp_path / f"models {name}"
    (models / name).mkdir(parents=True)
    section = read_back(write_model_paths(data_dir, models))
    assert (section["base_path"], section[name], others(section)) == (str(models), name, {name})
    # The simulator reads it as ComfyUI does.
    assert (name, models / name) in read_extra_paths(data_dir / "extra_model_paths.yaml")


def test_a_relative_folder_does_not_depend_on_where_comfyui_starts(
    models: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_back(write_model_paths(data_dir, Path("models")))["base_path"] == str(models)


def test_a_folder_that_went_away_is_an_error(models: Path, data_dir: Path) -> None:
    models.rmdir()
    with pytest.raises(FileNotFoundError):
        write_model_paths(data_dir, models)
