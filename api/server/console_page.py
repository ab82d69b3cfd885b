"""The console: one page for people, served as files that were built from `console/`.

It has no routes of its own. All it shows and does goes through the API that everybody has, with its reader's key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flask import Blueprint, Response, send_from_directory

from api.schema.described import ANY_TYPE, SERVER, Described
from core.errors import NotFound

FILES: Final = Path(__file__).parent.parent / "console"
INDEX = "index.html"
#: Names of these hold a hash of their content.
_HASHED = "assets/"
_KEPT_S = 365 * 24 * 3600
#: Nothing from elsewhere, and no script or style but those of the files. Pictures that the page made itself are shown.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def console_blueprint() -> Blueprint:
    """Return the blueprint of `/` and the files below `/console/`, which need no key and are the same for everybody."""
    blueprint = Blueprint("console", __name__)
    names = frozenset(path.relative_to(FILES).as_posix() for path in FILES.rglob("*") if path.is_file())

    @blueprint.get("/")
    @Described(summary="The console", tag=SERVER, scope="any", answers={200: "text/html"})
    def index() -> Response:
        return _sent(INDEX)

    @blueprint.get("/console/<path:file>")
    @Described(summary="A file of the console", tag=SERVER, scope="any", answers={200: ANY_TYPE}, errors=(NotFound,))
    def one(file: str) -> Response:
        # No path of a client's is ever looked up.
        if file not in names:
            raise NotFound(f"There is no {file[:200]} here.")
        return _sent(file)

    return blueprint


def _sent(name: str) -> Response:
    is_hashed = name.startswith(_HASHED)
    # Whole each time: none is large, and those of a hashed name are asked for once.
    answer = send_from_directory(FILES, name, max_age=_KEPT_S if is_hashed else None, conditional=False)
    if not is_hashed:
        answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer
