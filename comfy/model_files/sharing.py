"""Which hosts share a folder of models: each leaves a note in it, for the others to spare what it needs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from comfy.model_files.cache import OWN_FOLDER

#: A host that has said nothing for so long shares it no more.
SILENT_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Sharer:
    """A host that keeps its models in a folder."""

    host: str
    #: What pins files to it.
    pool: str | None = None
    tags: tuple[str, ...] = ()


class Sharing:
    """The notes in one folder."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder.expanduser().absolute() / OWN_FOLDER / "hosts"

    def note(self, own: Sharer) -> None:
        """Say that a host is there, and what it keeps. Raises OSError."""
        text, place = json.dumps(asdict(own)), self._place_of(own.host)
        with contextlib.suppress(OSError):
            if place.read_text() == text:
                place.touch()
                return
        self._notes.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(".new")
        draft.write_text(text)
        draft.replace(place)

    def others(self, host: str) -> list[Sharer]:
        """Return the other hosts that share the folder."""
        try:
            # By the clock of the file system, which is the same for all of them.
            now_s = self._place_of(host).stat().st_mtime
        except OSError:
            return []
        found = []
        for place in sorted(self._notes.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                note = json.loads(place.read_text())
                sharer = Sharer(host=note["host"], pool=note["pool"], tags=tuple(note["tags"]))
                if sharer.host != host and now_s - place.stat().st_mtime < SILENT_S:
                    found.append(sharer)
        return found

    def _place_of(self, host: str) -> Path:
        return self._notes / f"{hashlib.sha256(host.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.json"
