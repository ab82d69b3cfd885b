"""Where things lie, for tests at any depth."""

from __future__ import annotations

from pathlib import Path

#: The repository.
ROOT = Path(__file__).parents[1]
