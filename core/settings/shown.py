"""Settings as they may be shown: those that were set, and of secrets only that they were."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.settings.settings import PREFIX, Settings

#: In place of a value that is, or may hold, a secret.
MASK = "(set)"
#: Anything may stand in command lines.
_MAY_HOLD_SECRETS = frozenset({"comfyui_args", "simulator_args"})
_USER_IN_URL = re.compile(r"//[^/@\s]*@")


def shown_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that are not as they come, by the names of their variables."""
    shown = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value == _absolute(field.get_default(call_default_factory=True)):
            continue
        is_secret = not field.repr or isinstance(value, SecretStr) or name in _MAY_HOLD_SECRETS
        shown[_variable(name)] = MASK if is_secret else _USER_IN_URL.sub("//***@", str(value))
    return shown


def _absolute(default: Any) -> Any:
    """Return a default as it is read: paths are whole ones then."""
    return default.absolute() if isinstance(default, Path) else default


def _variable(name: str) -> str:
    alias = Settings.model_fields[name].validation_alias
    return PREFIX + name.upper() if alias is None else name.upper()
