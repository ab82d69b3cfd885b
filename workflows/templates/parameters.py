"""The typed parameters of a template, and whether a value fits one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from core.errors import InvalidParameter
from workflows.graphs.file_names import is_safe_file_name

#: `any` is the type of a placeholder that nothing is said about: text, a number, true or false.
ANY = "any"
TYPES = ("string", "integer", "number", "boolean", "choice", "image")
DEFAULT_MAX_CHARS = 20_000
#: ComfyUI's seeds run up to here.
MAX_SEED = 2**64 - 1
RANDOM_INT = "__RANDOM_INT__"

_WORDS = {
    "string": "text",
    "image": "text: the name or URL of a picture, the id of an upload, or a data URI",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    ANY: "text, a number, true or false",
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")
_FORM_BOOLEANS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
_FILE_SCHEMES = ("http://", "https://", "data:")
_MAX_SHOWN_CHARS = 60

Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the values a choice offers."""

    #: What clients send, and what is recorded.
    key: Scalar
    #: What the graph gets.
    value: Scalar
    aliases: tuple[Scalar, ...] = ()
    #: Further placeholders this choice fills, by their names in small letters.
    values: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One open value of a template."""

    name: str
    type: str = ANY
    description: str = ""
    #: None: there is none.
    default: Scalar | None = None
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: float | None = None
    max_chars: int = DEFAULT_MAX_CHARS
    choices: tuple[Choice, ...] = ()
    #: Drawn when it is not given.
    random: bool = False
    #: `(node id, input name)` of the node inputs that take the value, beside its placeholder.
    targets: tuple[tuple[str, str], ...] = ()

    def check(self, value: Any, *, coerce: bool = False) -> Scalar:
        """The value as it is recorded: of the right type, and for a choice its key.

        Parameters:
          coerce: text stands for numbers and booleans, as it comes from a form or a command line.
        Raises:
          InvalidParameter: it does not fit; the message names parameter, value and what is allowed.
        """
        if self.type == "choice":
            return self.choice(value, coerce=coerce).key
        if coerce and isinstance(value, str):
            value = self._from_text(value)
        if not isinstance(value, (str, int, float)) or not self._has_type(value):
            raise self._refused(value, f"it must be {_WORDS[self.type]}")
        fitting: Scalar = int(value) if self.type == "integer" else value
        if isinstance(fitting, str):
            self._check_text(fitting)
        elif not isinstance(fitting, bool):
            self._check_range(fitting)
        return fitting

    def choice(self, value: Any, *, coerce: bool = False) -> Choice:
        """The choice of that key or alias; with `coerce`, also where only the text is the same."""
        for found in self.choices:
            for name in (found.key, *found.aliases):
                if _same(name, value) or (coerce and isinstance(value, str) and as_text(name) == value):
                    return found
        raise self._refused(value, "choose one of " + ", ".join(shown(choice.key) for choice in self.choices[:50]))

    def filled(self, value: Scalar) -> dict[str, Scalar]:
        """The placeholders, by name, that a checked value fills, its own among them."""
        if self.type != "choice":
            return {self.name: value}
        found = self.choice(value)
        return {self.name: found.value, **found.values}

    def _from_text(self, text: str) -> Any:
        if self.type == "integer" and _INTEGER.fullmatch(text):
            return int(text)
        if self.type == "number" and _NUMBER.fullmatch(text):
            return int(text) if _INTEGER.fullmatch(text) else float(text)
        if self.type == "boolean":
            return _FORM_BOOLEANS.get(text.lower(), text)
        return text

    def _has_type(self, value: Scalar) -> bool:
        if isinstance(value, bool):
            return self.type in ("boolean", ANY)
        if isinstance(value, str):
            return self.type in ("string", "image", ANY)
        if isinstance(value, float) and not math.isfinite(value):
            return False
        # To JSON, and to JSON Schema, 20.0 is an integer; some clients know no other numbers.
        return self.type in ("number", ANY) or (self.type == "integer" and value == int(value))

    def _check_text(self, text: str) -> None:
        # These become files, and are replaced by their names, before the job runs.
        stands_for_file = self.type == "image" and text.startswith(_FILE_SCHEMES)
        if len(text) > self.max_chars and not stands_for_file:
            raise self._refused(text, f"it has {len(text)} characters, at most {self.max_chars} are allowed")
        if _NO_TEXT.search(text):
            raise self._refused(text, "NUL and halves of surrogate pairs are no text")
        if self.type == "image" and not stands_for_file and not is_safe_file_name(text):
            raise self._refused(text, "it must be the name of a file below the input folder, a URL, or a data URI")

    def _check_range(self, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise self._refused(value, self._range())
        if self.maximum is not None and value > self.maximum:
            raise self._refused(value, self._range())
        # As text, because 0.3 is no multiple of 0.1 in binary.
        if self.multiple_of is not None and Fraction(str(value)) % Fraction(str(self.multiple_of)):
            raise self._refused(value, f"it must be a multiple of {self.multiple_of}")

    def _range(self) -> str:
        if self.maximum is None:
            return f"it must be {self.minimum} or more"
        if self.minimum is None:
            return f"it must be {self.maximum} or less"
        return f"it must be from {self.minimum} to {self.maximum}"

    def _refused(self, value: Any, why: str) -> InvalidParameter:
        return InvalidParameter(f"Parameter {self.name} cannot be {shown(value)}: {why}.", self.name)


def shown(value: Any) -> str:
    """A value for a message: short, and safe to write even if it holds half a surrogate pair."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value[: _MAX_SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN_CHARS + 2 else f"{text[:_MAX_SHOWN_CHARS]}..."


def as_text(value: Scalar) -> str:
    """A value inside a longer text, and as a form would send it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _same(name: Scalar, value: Any) -> bool:
    """Equal, and both of them text, or numbers, or booleans: in Python `True == 1`."""
    kinds = (str, bool)
    return [isinstance(name, kind) for kind in kinds] == [isinstance(value, kind) for kind in kinds] and name == value
