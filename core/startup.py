"""What is looked at before a server starts: settings that cannot work are errors, those that are risky are said."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from core.errors import ConfigurationError, InvalidRequest
from core.outbound import Policy, check_url
from core.settings import Settings, process_environment
from core.settings.neighbours import is_loopback

#: In the environment of all that `comfyline up` and `comfyline gpu` start, which have told the operator everything.
#: It has no prefix of settings, or settings would refuse it.
SET_VARIABLE = "UNDER_COMFYLINE"
#: Shorter keys are found by trying.
MIN_KEY_CHARS = 8


def check_api(settings: Settings) -> None:
    """Refuse settings that the API cannot work with. Raises ConfigurationError: names the setting."""
    for key in settings.api_keys:
        if len(key) < MIN_KEY_CHARS:
            raise ConfigurationError(
                f"COMFYLINE_API_KEYS: a key has {len(key)} characters, and at least {MIN_KEY_CHARS} are needed, or it "
                "is soon found by trying. `openssl rand -hex 24` makes a good one."
            )
    if settings.webhook_url:
        try:
            check_url(settings.webhook_url, "WEBHOOK_URL", Policy.of_operator(settings))
        except InvalidRequest as exc:
            raise ConfigurationError(exc.message) from exc
    if settings.workflows_dir is not None:
        _check_folder("COMFYLINE_WORKFLOWS_DIR", settings.workflows_dir)


def is_told_already() -> bool:
    """Return whether this process was started by one of ours, which has told the operator all that can be told."""
    return SET_VARIABLE in process_environment()


def private_from_now_on() -> None:
    """Have everything that this process and its children write be its user's alone."""
    os.umask(0o077)


def data_dir_advice(settings: Settings) -> str | None:
    """Return advice on a data directory that others can look into; None if all is well."""
    try:
        mode = settings.data_dir.stat().st_mode & 0o777
    except OSError:
        return None
    if not mode & 0o077:
        return None
    return (
        f"COMFYLINE_DATA_DIR={settings.data_dir} is open to other users of this machine (mode {mode:04o}). What is "
        f"written there from now on is not, what is there may be: chmod -R go= {settings.data_dir}"
    )


def open_api_advice(settings: Settings, *, has_keys: bool = False) -> str | None:
    """Return advice on an API that asks for no key; None if all is well.

    Parameters:
      has_keys: whether the ledger has, or had, any.
    """
    if settings.api_keys or has_keys or is_loopback(settings.api_host):
        return None
    return (
        f"The API is OPEN to everybody who reaches {settings.api_host}: set COMFYLINE_API_KEYS to ask for a key, or "
        "make one (comfyline keys)."
    )


def comfyui_port_advice(settings: Settings) -> str | None:
    """Return why ComfyUI's own protocol has no port of its own although it was to have one; None if all is well.

    A real ComfyUI often has that port, which is no reason for the rest not to start.
    """
    host, port = settings.api_host, settings.comfyui_port
    if port is None or (problem := listening_problem(host, port)) is None:
        return None
    words = "is taken by another program, a real ComfyUI perhaps" if problem.errno == errno.EADDRINUSE else str(problem)
    return (
        f"COMFYLINE_COMFYUI_PORT: port {port} on {host} {words}. ComfyUI's own protocol is served below /comfyui/ of "
        "the API alone; choose another port, and start the API again, to have it at / as well."
    )


def listening_problem(host: str, port: int) -> OSError | None:
    """Return why nobody can listen at an address now; None: one can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of a former one that linger in TIME_WAIT do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as exc:
        return exc
    return None


def _check_folder(name: str, folder: Path) -> None:
    try:
        with os.scandir(folder):
            return
    except OSError as exc:
        raise ConfigurationError(
            f"{name}={folder} cannot be read: {exc.strerror}. It is never made, for it may be a mount that is missing."
        ) from exc
