"""The templates of one or more directories, kept up to date with their files."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import InvalidRequest
from workflows.templates.attachments import FOLDER_SUFFIX, entries_of, folder_of
from workflows.templates.parameters import shown
from workflows.templates.template import Template
from workflows.templates.template_files import SIDECAR_SUFFIX, Problem, read_template, sidecar_of

log = logging.getLogger(__name__)

#: The templates that come with the project.
SHIPPED = Path(__file__).parent.parent / "library"
_MAX_NAMED = 50
#: How much a name has to be like another one to be taken for a misspelling of it.
_LIKENESS = 0.5

#: `(path, mtime_ns, size_bytes, inode)` of a file; zeros if it is not there.
_Stamp = tuple[Path, int, int, int]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One template file as it was last looked at."""

    #: Of all its files.
    stamps: tuple[_Stamp, ...]
    #: The last version that was right, or None if there never was one.
    template: Template | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class _State:
    """All that was found in one look; replaced as a whole."""

    entries: Mapping[Path, _Entry] = field(default_factory=dict)
    #: Problems that belong to no template: directories that cannot be read, sidecars without a graph.
    strays: tuple[Problem, ...] = ()
    templates: Mapping[str, Template] = field(default_factory=dict)


class Library:
    """Templates by name. In a later directory the same name wins. Safe to share between threads.

    Files are looked at again, at most once in `check_every_s`, when somebody asks. A file that is wrong is refused,
    and the last version of it that was right stays in use.
    """

    def __init__(self, directories: Sequence[Path], *, check_every_s: float = 1.0) -> None:
        self._directories = tuple(directories)
        self._check_every_s = check_every_s
        self._lock = threading.Lock()
        self._state = _State()
        self._checked_at_s = time.monotonic()
        self._look()

    def names(self) -> list[str]:
        return sorted(self._current().templates)

    def get(self, name: str) -> Template:
        """Raises `InvalidRequest`, which names the templates there are."""
        templates = self._current().templates
        if name not in templates:
            known = ", ".join(sorted(templates)[:_MAX_NAMED]) or "none"
            raise InvalidRequest(f"Unknown workflow {shown(name)}; there are: {known}.")
        return templates[name]

    def check_names(self, names: Iterable[str]) -> None:
        """Raises `InvalidRequest`, which says which of these no template has, and the nearest names there are."""
        known = self._current().templates
        missing = [name for name in names if name not in known]
        if missing:
            raise InvalidRequest(" ".join(_missing_words(name, sorted(known)) for name in missing[:_MAX_NAMED]))

    def problems(self) -> list[Problem]:
        """What is wrong with the files as they are now."""
        state = self._current()
        return [*state.strays, *(problem for entry in state.entries.values() for problem in entry.problems)]

    def _current(self) -> _State:
        if time.monotonic() - self._checked_at_s >= self._check_every_s and self._lock.acquire(blocking=False):
            # Whoever comes while one thread looks gets what was there before.
            try:
                self._checked_at_s = time.monotonic()
                self._look()
            finally:
                self._lock.release()
        return self._state

    def _look(self) -> None:
        before = self._state
        entries: dict[Path, _Entry] = {}
        strays: list[Problem] = []
        for directory in self._directories:
            for path in _template_paths(directory, strays):
                entries[path] = _entry(path, before.entries.get(path))
        if entries == before.entries and tuple(strays) == before.strays:
            return
        _log_news(before, entries, strays)
        templates = _by_name(entries, before)
        self._state = _State(entries=entries, strays=tuple(strays), templates=templates)


def _missing_words(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=_LIKENESS)
    there_are = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known[:_MAX_NAMED]) or 'none'}"
    return f"There is no template {shown(name)} on this server; {there_are}."


def _template_paths(directory: Path, strays: list[Problem]) -> list[Path]:
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as exc:
        strays.append(Problem(file=directory, line=0, reason=f"cannot be read: {exc.strerror}"))
        return []
    graphs = [name for name in names if name.endswith(".json") and not name.endswith(SIDECAR_SUFFIX)]
    strays += [
        Problem(file=directory / name, line=0, reason="there is no graph beside this sidecar")
        for name in names
        if name.endswith(SIDECAR_SUFFIX) and name.removesuffix(SIDECAR_SUFFIX) + ".json" not in graphs
    ]
    strays += [
        Problem(file=directory / name, line=0, reason="there is no graph beside this folder")
        for name in names
        if name.endswith(FOLDER_SUFFIX) and name.removesuffix(FOLDER_SUFFIX) + ".json" not in graphs
    ]
    return [directory / name for name in graphs]


def _entry(path: Path, before: _Entry | None) -> _Entry:
    # Taken before the files are read: what changes meanwhile differs from these the next time.
    stamps = tuple(_stamp(each) for each in _files_of(path))
    if before is not None and before.stamps == stamps:
        return before
    template, problems = read_template(path)
    if template is None and before is not None:
        template = before.template
    return _Entry(stamps=stamps, template=template, problems=tuple(problems))


def _files_of(path: Path) -> Iterator[Path]:
    """All that belongs to a template, there or not."""
    yield path
    yield sidecar_of(path)
    folder = folder_of(path)
    yield folder
    try:
        yield from entries_of(folder)
    except OSError:
        # Reading the template will say so.
        return


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return path, 0, 0, 0
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _by_name(entries: Mapping[Path, _Entry], before: _State) -> dict[str, Template]:
    found: dict[str, Template] = {}
    origin: dict[str, Path] = {}
    for path, entry in entries.items():
        if entry.template is None:
            continue
        name = entry.template.name
        if name in found and path not in before.entries:
            log.info("workflow %s: %s is used in place of %s", name, path, origin[name])
        found[name], origin[name] = entry.template, path
    return found


def _log_news(before: _State, entries: Mapping[Path, _Entry], strays: Sequence[Problem]) -> None:
    known = {*before.strays, *(problem for entry in before.entries.values() for problem in entry.problems)}
    for problem in [*strays, *(problem for entry in entries.values() for problem in entry.problems)]:
        if problem not in known:
            log.warning("workflow refused: %s", problem)
