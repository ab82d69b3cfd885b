"""A directory that is a fleet's storage, by the marker in it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from core.errors import ConfigurationError
from core.ledger.storage_ids import StorageIds
from core.settings import Settings

#: In the folder of outputs, which is the same on every machine also where only that one is shared.
NAME = ".fleet-storage"


def absence(settings: Settings) -> str:
    """Return what there is to say where the directory of the storage does not exist."""
    return (
        f"COMFYLINE_STORAGE_DIR={settings.storage_dir} is not there. Mount it, or make it; it is never made by itself, "
        "for it may be a mount that is missing."
    )


class MarkedDirectory:
    """The `MarkedPlace` of a directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.outputs_dir / NAME

    def __str__(self) -> str:
        if self._settings.storage_dir is None:
            return f"The storage in {self._settings.data_dir} (COMFYLINE_STORAGE_DIR is not set)"
        return f"COMFYLINE_STORAGE_DIR={self._settings.storage_dir}"

    def away(self) -> str | None:
        """Return None: a mount that is missing at a process's start is not waited for."""
        return None

    def marker_id(self) -> str | None:
        """Return the id in the marker; None: there is none. Raises OSError."""
        try:
            found = self._path.read_text(encoding="utf-8", errors="replace").split()
        except FileNotFoundError:
            return None
        return found[0] if found else None

    def problem(self, ids: StorageIds) -> str | None:
        """Return what is wrong where the fleet's current id, or its next one, should be; None: it is there."""
        try:
            found = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            help_ = self._help(ids.current)
            return f"{self} is not this fleet's storage: it has no {self._path.parent.name}/{NAME}. {help_}"
        except (OSError, UnicodeDecodeError) as exc:
            return f"{self} cannot be read: {getattr(exc, 'strerror', None) or 'the marker is damaged'}."
        if found and found[0] in ids.left:
            return (
                f"{self} is no longer this fleet's storage: the fleet has moved. Set COMFYLINE_STORAGE_URL to what the "
                "other machines have."
            )
        if found[:1] != [ids.current]:
            help_ = self._help(ids.current)
            return f"{self} is another fleet's storage: its {self._path.parent.name}/{NAME} differs. {help_}"
        return None

    def first_id(self, fleet: str) -> str:
        """Return the id in a new marker, or in that of a process that is as early as this one.

        Raises: ConfigurationError - the directory cannot be used.
        """
        folder = self._path.parent
        try:
            if self._settings.storage_dir is None:
                self._settings.make_data_dir()
            # Not with its parents: a directory that a setting names and that is not there may be a missing mount.
            folder.mkdir(exist_ok=True)
            _create_whole(self._path, f"{uuid.uuid4().hex} {fleet}\n")
            found = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError as exc:
            raise ConfigurationError(absence(self._settings)) from exc
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "its marker is damaged"
            raise ConfigurationError(f"{self} cannot be used: {reason}.") from exc
        if not found:
            raise ConfigurationError(f"{self._path} is empty; remove it.")
        # In a data directory of ours alone the ledger was merely made anew.
        if self._settings.storage_dir is not None and found[1:] not in ([], [fleet]):
            raise ConfigurationError(
                f"{self} belongs to another fleet, with another ledger. Two fleets would remove each other's "
                f"files: choose another directory, or if that fleet is gone remove {self._path}."
            )
        return found[0]

    def check_rights(self) -> str | None:
        """Return None: what a disk refuses is noticed where it does."""
        return None

    def _help(self, known: str) -> str:
        return (
            "Every machine of a fleet has to see one storage: mount it, and name it in COMFYLINE_STORAGE_DIR. If this "
            "is "
            f"the right one after all (it was moved, or restored), say so: mkdir -p {self._path.parent} && "
            f"echo {known} > {self._path}"
        )


def _create_whole(path: Path, text: str) -> None:
    """Make a file with all of its text, unless there is one already."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links.
        if not path.exists():
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
