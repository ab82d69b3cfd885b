"""The file that tells ComfyUI where shared models lie, read back as YAML would be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfy.process.model_paths import write_model_paths


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
    assert path.read_text() == (
        f'comfyline:\n  base_path: "{models}"\n  "checkpoints": "checkpoints"\n  "loras": "loras"\n'
    )
    assert [entry.name for entry in data_dir.iterdir()] == ["extra_model_paths.yaml"]


def test_a_folder_that_is_a_link_counts(models: Path, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (models / "vae").symlink_to(tmp_path / "elsewhere")
    (models / "clip").symlink_to(tmp_path / "nowhere")
    assert set(read_back(write_model_paths(data_dir, models))) == {"base_path", "vae"}


def test_the_file_says_what_is_there_at_the_time(models: Path, data_dir: Path) -> None:
    (models / "loras").mkdir()
    write_model_paths(data_dir, models)
    (models / "loras").rmdir()
    (models / "vae").mkdir()
    assert set(read_back(write_model_paths(data_dir, models))) == {"base_path", "vae"}


def test_programs_and_words_of_the_format_are_no_models(models: Path, data_dir: Path) -> None:
    for name in ("custom_nodes", "base_path", "is_default", ".cache", "two\nlines", "vae"):
        (models / name).mkdir()
    assert read_back(write_model_paths(data_dir, models)) == {"base_path": str(models), "vae": "vae"}


@pytest.mark.parametrize("name", ["no", "123", "a: b #c", 'say "x"', "back\\slash", "tab\tbed", "Modèle", "模型", "🎨"])
def test_any_name_survives(name: str, tmp_path: Path, data_dir: Path) -> None:
    models = tmp_path / f"models {name}"
    (models / name).mkdir(parents=True)
    assert read_back(write_model_paths(data_dir, models)) == {"base_path": str(models), name: name}


def test_a_relative_folder_does_not_depend_on_where_comfyui_starts(
    models: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_back(write_model_paths(data_dir, Path("models")))["base_path"] == str(models)


def test_a_folder_that_went_away_is_an_error(models: Path, data_dir: Path) -> None:
    models.rmdir()
    with pytest.raises(FileNotFoundError):
        write_model_paths(data_dir, models)
