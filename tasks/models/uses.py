"""Notes which model files jobs load, so that those go first that nobody has used for longest."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.model_files.cache import ModelCache
from core.settings import Settings


def note_uses(settings: Settings, names: Sequence[str]) -> None:
    """Note the model files of a job that is about to run. Neither raises nor takes long."""
    if settings.models_dir is not None:
        ModelCache(settings.models_dir).note_use(names)
