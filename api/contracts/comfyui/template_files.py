"""The official workflow templates, where they are installed: files of the packages `comfyui-workflow-templates-*`.

An operator installs them (`pip install comfyui-workflow-templates`), all or some of them: without those that hold the
pictures, the editor lists templates without pictures.
"""

from __future__ import annotations

import pkgutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

#: How the names of the packages begin, and the folder of each that holds its files.
PACKAGES, FOLDER = "comfyui_workflow_templates", "templates"


def template_files() -> dict[str, Path]:
    """Return `{path below templates/: file}` of all packages that there are."""
    found: dict[str, Path] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules() if module.name.startswith(PACKAGES)):
        spec = find_spec(module)
        for place in (spec.submodule_search_locations if spec is not None else None) or ():
            folder = Path(place) / FOLDER
            found |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return found


def templates_version() -> str | None:
    """Return the version of the package that brings all others; None: it is not installed."""
    try:
        return version(PACKAGES)
    except PackageNotFoundError:
        return None
