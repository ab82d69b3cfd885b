"""Where ComfyUI's own protocol is served: a port of its own, below a prefix on the main one, and all of it twice.

ComfyUI answers each route also below `/api`; what its newer versions call `/api/jobs` stands only there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from api.http.auth import COMFYUI_PREFIX

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_API = f"{COMFYUI_PREFIX}/api"
#: What is nowhere but below `/api`.
ONLY_THERE = f"{_API}/jobs"


class ComfyuiPaths:
    """Around the whole application: brings the paths of a request to the one that its route has."""

    def __init__(self, app: WSGIApplication, port: int | None) -> None:
        """Parameters:
        port: on which nothing else is served; None: there is none.
        """
        self._app = app
        self._port = None if port is None else str(port)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path: str = environ.get("PATH_INFO", "")
        # gunicorn has it from the socket that took the connection, and not from anything that a client sends.
        if self._port is not None and environ.get("SERVER_PORT") == self._port:
            path = f"{COMFYUI_PREFIX}{path}"
        environ["PATH_INFO"] = route_path(path)
        return self._app(environ, start_response)


def route_path(path: str) -> str:
    """Return the path of the route that a path means."""
    if not path.startswith(f"{_API}/") or path == ONLY_THERE or path.startswith(f"{ONLY_THERE}/"):
        return path
    return f"{COMFYUI_PREFIX}{path.removeprefix(_API)}"
