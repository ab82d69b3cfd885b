"""Texts that the editor fills in when it queues: names of files with dates and values, and prompts with choices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from workflows.editor.nodes import Canvas, Node

#: Classes whose `filename_prefix` is filled in.
_SAVERS = frozenset(
    {
        *("SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio"),
        *("SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced", "SaveGLB", "Save3DAdvanced", "SaveGaussianSplat"),
        *("SavePointCloud", "SaveAnimatedPNG", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"),
    }
)
_REPLACED = re.compile(r"%([^%]+)%")
_DATE_PARTS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_FORBIDDEN = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_ESCAPED = re.compile(r"\\([{}|])")
#: Choices within choices; beyond it the braces stay.
_MAX_CHOICE_DEPTH = 20
_ALIAS = "Node name for S&R"


class Texts:
    """Fills in the texts of one document."""

    def __init__(self, canvases: Iterable[Canvas], now: datetime, choose: Callable[[list[str]], str]) -> None:
        """Parameters:
        canvases: where `%node.widget%` is looked for; the first node of that name counts.
        choose: draws one of several texts.
        """
        self._now = now
        self._choose = choose
        self._named: dict[str, Node] = {}
        self._titled: dict[str, Node] = {}
        for canvas in canvases:
            for node in canvas.nodes.values():
                self._titled.setdefault(node.title, node)
                if isinstance(alias := _alias(node), str):
                    self._named.setdefault(alias, node)

    def is_replaced(self, node: Node, widget_name: str) -> bool:
        """Whether the editor fills in what stands between percent signs in a widget's text."""
        return widget_name == "filename_prefix" and node.type in _SAVERS

    def replaced(self, text: str) -> str:
        """Return a text with `%date:...%` and `%node.widget%` filled in; what is not known stays."""
        return _REPLACED.sub(self._replacement, text)

    def _replacement(self, found: re.Match[str]) -> str:
        parts = found[1].split(".")
        if len(parts) != 2:
            return self._date(parts[0][5:]) if parts[0].startswith("date:") else found[0]
        node = self._named.get(parts[0]) or self._titled.get(parts[0])
        widget = node.widget(parts[1]) if node else None
        return found[0] if widget is None else _FORBIDDEN.sub("_", _as_text(widget.value))

    def _date(self, text: str) -> str:
        now = self._now
        numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

        def part(found: re.Match[str]) -> str:
            letters = found[0]
            if letters[0] == "y":
                return {"yy": f"{now.year % 100:02}", "yyyy": str(now.year)}.get(letters, letters)
            return str(numbers[letters[0]]).zfill(len(letters))

        return _DATE_PARTS.sub(part, text)

    def drawn(self, text: str, depth: int = 0) -> str:
        """Return a text with one of `{a|b|{c|d}}` drawn, and without its comments."""
        text = _without_comments(text)
        parts: list[str] = []
        place = 0
        while place < len(text):
            char = text[place]
            if char == "\\":
                parts.append(text[place : place + 2])
                place += 2
            elif char == "{" and depth < _MAX_CHOICE_DEPTH:
                options, place = _options(text, place + 1)
                parts.append(self.drawn(self._choose(options), depth + 1))
            else:
                parts.append(char)
                place += 1
        return _ESCAPED.sub(r"\1", "".join(parts))


def _without_comments(text: str) -> str:
    """Leave out `/* ... */` and `// ...`, as far as they are closed."""
    parts: list[str] = []
    begun = place = 0
    is_closed = True
    while (place := text.find("/", place)) >= 0:
        kind, end = text[place + 1 : place + 2], -1
        if kind == "/":
            end = text.find("\n", place)
            end = len(text) if end < 0 else end
        elif kind == "*" and is_closed:
            close = text.find("*/", place + 2)
            is_closed = close >= 0
            end = close + 2 if is_closed else -1
        if end < 0:
            place += 1
            continue
        parts.append(text[begun:place])
        begun = place = end
    return "".join([*parts, text[begun:]])


def _options(text: str, place: int) -> tuple[list[str], int]:
    """Return the options between braces, and the place behind them."""
    options, begun, depth = [], place, 0
    while place < len(text):
        char = text[place]
        if char == "\\":
            place += 1
        elif char == "{":
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char == "}" or (char == "|" and not depth):
            options.append(text[begun:place])
            begun = place + 1
            if char == "}":
                return options, begun
        place += 1
    return [*options, text[begun:]], place


def _alias(node: Node) -> Any:
    own = node.stored.properties.get(_ALIAS)
    return node.type if own is None and node.info is not None and node.type not in _SAVERS else own


def _as_text(value: Any) -> str:
    """As JavaScript writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else "" if value is None else str(value)
