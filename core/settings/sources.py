"""The only module that reads the environment: once, at the start of a process.

A name that starts with `COMFYLINE_` and is not known, or a value that cannot be read, stops the start with that name.
Secrets may be given as `NAME_FILE=/path` instead, so that they need not stand in the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.errors import ConfigurationError
from core.settings.joint_checks import (
    refuse_addresses_of_nothing,
    refuse_half_a_bucket,
    refuse_half_a_storage,
    refuse_malformed_keys,
    refuse_malformed_tokens,
    refuse_shared_ports,
    refuse_telling_of_nothing,
)
from core.settings.settings import PREFIX, Settings

#: Of releases before the project took its name.
FORMER_PREFIX = "FLEET_"
#: Names with our prefix that are not settings of the running system: the test suite finds its services by them.
FOREIGN_PREFIXES = ("COMFYLINE_TEST_",)
#: Settings that may stand in a file named by `NAME_FILE`: secrets, and URLs that hold one.
SECRET_FIELDS = (
    "api_keys",
    "flower_basic_auth",
    "secret_key",
    "webhook_signing_key",
    "autoscale_webhook_secret",
    "database_url",
    "broker_url",
    "models_tokens",
    "storage_secret_access_key",
)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    Parameters:
      overrides: field values that win over the environment (command-line flags).
    Raises:
      ConfigurationError: names the variable that is unknown, missing or malformed.
    """
    _refuse_unknown_names()
    try:
        settings = Settings(**{**_read_secret_files(), **overrides})
    except ValidationError as exc:
        raise ConfigurationError(_explain(exc)) from exc
    refuse_half_a_bucket(settings)
    refuse_half_a_storage(settings)
    refuse_addresses_of_nothing(settings)
    refuse_malformed_keys(settings)
    refuse_malformed_tokens(settings)
    refuse_telling_of_nothing(settings)
    refuse_shared_ports(settings)
    return settings


def process_environment() -> dict[str, str]:
    """Return a copy of this process's environment, for our own child processes; never for ComfyUI."""
    return dict(os.environ)


def traces_are_wanted() -> bool:
    """Return whether OpenTelemetry's own variables say where spans are to go: those are its settings, and not ours."""
    named = [os.environ.get(f"OTEL_EXPORTER_OTLP_{part}ENDPOINT", "").strip() for part in ("", "TRACES_")]
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return any(named) and exporter == "otlp" and not is_off


def _read_secret_files() -> dict[str, str]:
    # Handed over as values and not written back into the environment, where child processes would inherit them.
    found = {}
    for field in SECRET_FIELDS:
        name = f"{PREFIX}{field.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            continue
        try:
            found[field] = Path(path).read_text().strip()
        except OSError as exc:
            raise ConfigurationError(f"{name}={path} cannot be read: {exc.strerror}") from exc
    return found


def _refuse_unknown_names() -> None:
    known = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if field.validation_alias is None}
    known |= {f"{PREFIX}{field.upper()}_FILE" for field in SECRET_FIELDS}
    if former := sorted(name for name in os.environ if name.startswith(FORMER_PREFIX)):
        raise ConfigurationError(f"{_renamed(former, known)} The project has taken another name.")
    for name in os.environ:
        if name.startswith(PREFIX) and not name.startswith(FOREIGN_PREFIXES) and name not in known:
            raise ConfigurationError(f"{name} is not a setting of Comfyline; see docs/settings.md for the list.")


def _renamed(former: list[str], known: set[str]) -> str:
    """Return what became of settings of former names, all at once; a name that was none gets no new one."""
    called = {name: PREFIX + name.removeprefix(FORMER_PREFIX) for name in former}
    return " ".join(
        f"{name} is now called {new}."
        if new in known or new.startswith(FOREIGN_PREFIXES)
        else f"{name} is not a setting of Comfyline, whose settings begin with {PREFIX}; see docs/settings.md."
        for name, new in called.items()
    )


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        name = field if field.isupper() else PREFIX + field.upper()
        known = Settings.model_fields.get(field)
        # A URL that cannot be read may hold a password all the same.
        got = f" (got {problem.get('input')!r})" if known is None or known.repr else ""
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(lines)
