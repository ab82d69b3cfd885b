"""The data directory: made and tried before anything relies on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cli.output.terminal import warn
from core.errors import ConfigurationError
from core.settings import Settings
from core.startup import private_from_now_on

#: Where the data of a machine is, unless a setting says otherwise; and where releases before the new name had it.
DEFAULT, FORMER = Settings.model_fields["data_dir"].default, Path(".fleet")


def make_data_dir(settings: Settings) -> None:
    """Create the data directory, and keep to ourselves what is written from now on.

    Raises: ConfigurationError - it cannot be made or written, or an earlier release's is in its place.
    """
    if settings.data_dir == DEFAULT.absolute() and not DEFAULT.exists() and FORMER.exists():
        raise ConfigurationError(
            f"{FORMER} holds the jobs of an earlier release, and the data directory is now called {DEFAULT}. "
            f"Rename it (mv {FORMER} {DEFAULT}), or set COMFYLINE_DATA_DIR={FORMER}."
        )
    private_from_now_on()
    try:
        is_new = not settings.data_dir.exists()
        settings.make_data_dir()
    except OSError as exc:
        raise ConfigurationError(_cannot_be_written(settings, exc)) from exc
    try_data_dir(settings)
    if is_new and "data_dir" in settings.model_fields_set:
        # Somebody named it, and may know it with a ledger in it: on a mount that is missing, say.
        warn(
            f"COMFYLINE_DATA_DIR={settings.data_dir} was not there and has been made: this machine begins with nothing."
        )


def try_data_dir(settings: Settings) -> None:
    """Write into the data directory, and leave nothing there. Raises: ConfigurationError - it cannot be written."""
    try:
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as exc:
        raise ConfigurationError(_cannot_be_written(settings, exc)) from exc


def _cannot_be_written(settings: Settings, exc: OSError) -> str:
    return f"COMFYLINE_DATA_DIR={settings.data_dir} cannot be written: {exc.strerror}."
