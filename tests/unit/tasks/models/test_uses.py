"""Uses of model files, noted for those that make room."""

from __future__ import annotations

from pathlib import Path

from comfy.model_files.cache import ModelCache
from tasks.models.uses import note_uses
from tests.services import make_settings


def test_a_use_is_noted_where_files_are_fetched_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    settings = make_settings(tmp_path, models_dir=folder)
    note_uses(make_settings(tmp_path), ["a.sft"])
    note_uses(settings, ["a.sft"])
    assert not folder.exists(), "nothing was fetched there"
    cache = ModelCache(folder)
    part = cache.part_of("checkpoints/a.sft")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x")
    cache.keep("checkpoints/a.sft", sha256="a" * 64, size_bytes=1)
    note_uses(settings, ["a.sft", "other.sft"])
    assert len(list((folder / ".comfyline" / "used").iterdir())) == 2
