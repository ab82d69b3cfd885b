"""docs/settings.md names every setting there is, with its true default, and no other."""

from __future__ import annotations

import re
from typing import Any

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from core.settings import Settings
from core.settings.settings import PREFIX
from core.settings.sources import SECRET_FIELDS
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
#: `{variable: default as the table shows it}`.
ROWS = dict(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \| (.+?) \| .+ \|$", TEXT, re.MULTILINE))


def variable_of(name: str, field: FieldInfo) -> str:
    """The environment variable of a field; the first alias, if it has any."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def shown(field: FieldInfo) -> str:
    """A default as the table writes it."""
    if field.default_factory is not None:
        return "host name"
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == ():
        return "none"
    if value == "":
        return "empty"
    if isinstance(value, tuple):
        value = ",".join(f"{part:g}" for part in value)
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def test_every_setting_stands_there_with_its_default_and_nothing_else() -> None:
    expected = {variable_of(name, field): shown(field) for name, field in Settings.model_fields.items()}

    assert expected == ROWS


def test_a_setting_stands_there_once() -> None:
    assert len(re.findall(r"^\| `[A-Z][A-Z0-9_]+` \|", TEXT, re.MULTILINE)) == len(ROWS)


def test_every_variable_that_may_name_a_file_is_listed() -> None:
    expected = {f"{PREFIX}{field.upper()}_FILE" for field in SECRET_FIELDS}

    assert expected == set(re.findall(r"`(COMFYLINE_[A-Z_]+_FILE)`", TEXT))


def test_no_document_names_a_setting_that_is_not_there() -> None:
    root = ROOT
    known = {*ROWS, *(f"{PREFIX}{field.upper()}_FILE" for field in SECRET_FIELDS)}
    for document in [*root.glob("*.md"), *root.glob("docs/*.md")]:
        named = set(re.findall(r"\bCOMFYLINE_[A-Z][A-Z_]*[A-Z]\b", document.read_text(encoding="utf-8")))
        unknown = {name for name in named - known if not name.startswith("COMFYLINE_TEST_")}
        assert not unknown, f"{document.name}: {unknown}"
