"""Templates as files: read one with its sidecar, and say by file and line what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidBody, InvalidWorkflow
from core.texts.strict_json import loads
from workflows.graphs.graph import Graph, parse_graph
from workflows.templates.attachments import folder_of, read_attachments
from workflows.templates.sidecar import Fault, Sidecar
from workflows.templates.template import Template, assemble, template_faults, unwrapped

SIDECAR_SUFFIX = ".params.json"
_MAX_FILE_BYTES = 8 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a template file is refused."""

    file: Path
    #: Counted from 1; 0 if the file as a whole is meant.
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".json") + SIDECAR_SUFFIX)


def check_file(path: Path) -> list[Problem]:
    """What is wrong with a template and its files, given its graph or its sidecar; [] if a library would take it."""
    if path.name.endswith(SIDECAR_SUFFIX):
        path = path.with_name(path.name.removesuffix(SIDECAR_SUFFIX) + ".json")
    return read_template(path)[1]


def read_template(path: Path) -> tuple[Template | None, list[Problem]]:
    """The template in a file, named after it; None if there are problems."""
    name = path.name.removesuffix(".json")
    if not _NAME.fullmatch(name):
        return None, [Problem(file=path, line=0, reason="a name is letters, digits, '.', '_' and '-', at most 100")]
    problems: list[Problem] = []
    graph_file, sidecar_file = _File(path, problems), _File(sidecar_of(path), problems)
    graph_value = graph_file.read()
    sidecar_value = sidecar_file.read() if sidecar_file.path.exists() else None
    graph = graph_file.parse_graph(graph_value) if not problems else None
    if graph is None:
        return None, problems
    sidecar = None if sidecar_value is None else Sidecar(sidecar_value[0])
    graph_faults, sidecar_faults = template_faults(graph, sidecar)
    graph_file.report(graph_faults)
    sidecar_file.report(sidecar_faults)
    files, file_faults = read_attachments(folder_of(path))
    problems += [Problem(file=each, line=0, reason=reason) for each, reason in file_faults]
    return (None, problems) if problems else (assemble(name, graph, sidecar, files), [])


class _File:
    """One file: its text, for the lines in problems."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self._problems = problems
        self._text = ""

    def read(self) -> tuple[Any] | None:
        """The file's JSON value, in a tuple, since the value may be null; None if it cannot be read."""
        try:
            data = self._bytes()
            self._text = data.decode("utf-8", errors="replace")
            return (loads(data),)
        except OSError as exc:
            self._add(0, f"cannot be read: {exc.strerror}")
        except InvalidBody as exc:
            cause = exc.__cause__
            if isinstance(cause, json.JSONDecodeError):
                self._add(cause.lineno, f"column {cause.colno}: {cause.msg}")
            else:
                self._add(1, exc.message)
        return None

    def _bytes(self) -> bytes:
        with self.path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise InvalidBody(f"The file is over {_MAX_FILE_BYTES} bytes.")
        return data

    def parse_graph(self, value: tuple[Any] | None) -> Graph | None:
        try:
            return parse_graph(unwrapped(value[0])) if value is not None else None
        except InvalidWorkflow as exc:
            self._add(self._line(list(exc.node_errors)[:1]), exc.message)
        return None

    def report(self, faults: Sequence[Fault]) -> None:
        for where, reason in faults:
            self._add(self._line(where), reason)

    def _add(self, line: int, reason: str) -> None:
        self._problems.append(Problem(file=self.path, line=line, reason=reason))

    def _line(self, keys: Sequence[str]) -> int:
        """The line of the last of these keys that is found, each looked for behind the one before; 1 if none is."""
        end = 0
        for key in keys:
            found = re.compile(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:").search(self._text, end)
            if found is None:
                break
            end = found.end()
        return self._text.count("\n", 0, end) + 1
