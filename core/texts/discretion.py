"""Texts of others without secrets, and without the places they name: addresses inside the fleet, machines, paths."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

#: What stands in place of an address or a machine's name, and of a secret.
HIDDEN, SECRET = "[address]", "[secret]"

_PRIVATE = (
    r"(?:127|10)(?:\.\d{1,3}){3}|192\.168(?:\.\d{1,3}){2}|172\.(?:1[6-9]|2\d|3[01])(?:\.\d{1,3}){2}"
    r"|169\.254(?:\.\d{1,3}){2}|0\.0\.0\.0|localhost|\[::1?\]"
)
_ADDRESS = re.compile(rf"(?<![\w.])(?:(?:https?|wss?)://)?(?:{_PRIVATE})(?::\d+)?(?!\w)", re.IGNORECASE)
#: Quoted paths may hold anything but quotes; others end where a space does. What follows a host name is no path here.
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<path>(?:file://)?(?:/|[A-Za-z]:\\)[^'"\n]*)(?P=quote)""")
_BARE = re.compile(r"(?<![\w/.~\]-])(?:file://)?(?:/[\w.+@%~-]+){2,}")
_WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:(?:\\[^\\\s'\":*?<>|]+){2,}")
#: From here on a path says nothing of the machine, and a lot of the node.
_KEPT_FROM = ("custom_nodes", "site-packages", "dist-packages")


def forms_of(secret: str) -> tuple[str, ...]:
    """Return how a secret may stand in a text that quotes it: as it is, in JSON, in Python, in a URL, in HTML.

    What it begins or ends with is nothing that others would print along with it, such as the end of its file's line.
    """
    plain = {secret, secret.strip()}
    forms = {change(text) for text in plain for change in (_as_it_is, _in_json, _in_python, quote_plus, html.escape)}
    forms |= {quote(text, safe="") for text in plain}
    return tuple(sorted(forms - {""}, key=len, reverse=True))


def without_secrets(text: str, forms: Iterable[str]) -> str:
    """Replace secrets by `[secret]`. Parameters: forms - of each of them, see `forms_of`."""
    for form in forms:
        text = text.replace(form, SECRET)
    return text


def without_places(text: str, machines: Iterable[str] = ()) -> str:
    """Replace addresses by `[address]`, and cut paths to what does not depend on the machine.

    Parameters:
      machines: names, or names with ports, that are also to be hidden.
    """
    for name in machines:
        text = re.sub(rf"(?:(?:https?|wss?)://)?(?<![\w.-]){re.escape(name)}(?::\d+)?(?![\w-])", HIDDEN, text)
    text = _ADDRESS.sub(HIDDEN, text)
    text = _QUOTED.sub(lambda found: found["quote"] + _shortened(found["path"]) + found["quote"], text)
    text = _BARE.sub(lambda found: _shortened(found[0]), text)
    return _WINDOWS.sub(lambda found: _shortened(found[0]), text)


def tells_machines_apart(name: str) -> bool:
    """Return whether a host's name is one that would not stand in a text for another reason."""
    return re.search(r"[0-9.-]", name) is not None


def _as_it_is(text: str) -> str:
    return text


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _in_python(text: str) -> str:
    return repr(text)[1:-1]


def _shortened(path: str) -> str:
    parts = re.split(r"[\\/]", path.removeprefix("file://"))
    if len(parts) < 3:
        return path
    kept = max((index for index, part in enumerate(parts) if part in _KEPT_FROM), default=len(parts) - 1)
    return ".../" + "/".join(parts[kept:])
