"""Names of sets of model files, and what is remembered under them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from core.scheduling.lines import NO_MODELS, ModelSet


def model_set_of(files: Collection[str]) -> ModelSet:
    """Return the name of a set of model files; `NO_MODELS` for none."""
    if not files:
        return NO_MODELS
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:32]


def run_subject(models: ModelSet) -> str:
    """Return what the runs of jobs with these models are remembered under."""
    return f"models:{models}"


def load_subject(models: ModelSet) -> str:
    """Return what loads of these models are remembered under."""
    return f"load:{models}"
