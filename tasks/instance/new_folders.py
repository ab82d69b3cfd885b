"""Folders of models that came after an instance was started: ComfyUI looks only into those that it was told of."""

from __future__ import annotations

from comfy.model_files.cache import ModelCache
from comfy.process.model_paths import unnamed_folders
from comfy.process.spec import InstanceSpec


def folders_to_learn(spec: InstanceSpec) -> list[str]:
    """Return the folders of fetched model files of which an instance knows nothing before it is started again.

    Those that hold only what others put there are left out: whoever did may not want his instances to be restarted.

    Raises:
      OSError: the folders cannot be looked at.
    """
    if spec.models_dir is None or spec.kind == "attached":
        return []
    unnamed = unnamed_folders(spec.data_dir, spec.models_dir)
    if not unnamed:
        return []
    return sorted(unnamed.intersection(file.path.partition("/")[0] for file in ModelCache(spec.models_dir).files()))
