"""Flower's credentials: taken from the settings, else made once and kept in the data directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from core.errors import ConfigurationError
from core.settings import Settings

USER = "comfyline"


def flower_credentials(settings: Settings) -> str:
    """`user:password` for Flower.

    Raises:
      ConfigurationError: the setting is not `user:password` in plain ASCII.
    """
    chosen = settings.flower_basic_auth.get_secret_value()
    if not chosen:
        return _kept(flower_credentials_file(settings), lambda: f"{USER}:{secrets.token_urlsafe(18)}")
    user, _, password = chosen.partition(":")
    if not (user and password and chosen.isascii()):
        raise ConfigurationError("COMFYLINE_FLOWER_BASIC_AUTH must be user:password, in ASCII.")
    return chosen


def flower_credentials_file(settings: Settings) -> Path:
    """Return where generated credentials are kept, readable by the owner alone."""
    return settings.data_dir / "flower-credentials"


def flower_cookie_secret(settings: Settings) -> str:
    """Return the secret that Flower signs cookies with; it survives restarts, and so do sessions."""
    return _kept(settings.data_dir / "flower-cookie-secret", lambda: secrets.token_urlsafe(48))


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Return what the file says; made and written (mode 0600) when it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Linked into place whole: of two processes that start at once, one wins and both read the same.
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "w") as file:
            file.write(make() + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        Path(draft).unlink()
    return path.read_text().strip()
