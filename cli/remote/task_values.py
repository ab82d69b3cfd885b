"""What the flags of `comfyline submit --workflow` mean: graph, image, styles and rooms, further parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.remote.client import Client
from cli.remote.written_files import is_file
from core.errors import InvalidBody, InvalidRequest
from core.texts.json_types import JsonObject
from core.texts.strict_json import loads
from workflows.graphs.graph import Graph, parse_graph
from workflows.templates.fill import open_parts, placeholders
from workflows.templates.template import unwrapped

#: Flags that are the parameter of the same name.
FLAGS = ("user_img", "style", "room", "prefix")
#: In the order of their numbers.
STYLES = ("style_eu1", "style_jp1", "style_country")
ROOMS = ("living_room", "dining_room", "bedroom", "bathroom", "balcony", "kitchen", "study", "office")
#: What follows the name in a file's name: `interior_design_v0.03_linux`.
VERSION_MARK = "_v"


def read_workflow(body: bytes, name: str) -> JsonObject:
    """The graph in a file, also where it stands in a request body.

    A body is `{"workflow": graph}`, `{"prompt": graph}` or `{"input": {"workflow_json": graph}}`.

    Raises:
      InvalidRequest: the file is not JSON, or not an object.
    """
    try:
        value = unwrapped(loads(body))
    except InvalidBody as exc:
        raise InvalidRequest(f"{name} is not a workflow: {exc}") from exc
    if isinstance(value, dict):
        for wrapper in ("workflow", "prompt"):
            if isinstance(value.get(wrapper), dict) and "class_type" not in value[wrapper]:
                value = value[wrapper]
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is not a workflow: it holds no JSON object.")
    return value


def read_graph(file: Path, client: Client) -> Graph:
    """The graph in a file; what the editor saves is converted by the server.

    Raises: InvalidRequest, InvalidWorkflow - it cannot be read, or is none.
    """
    try:
        body = file.read_bytes()
    except OSError as exc:
        raise InvalidRequest(f"{file} cannot be read: {exc.strerror}.") from exc
    return parse_graph(client.convert(read_workflow(body, str(file))))


def names_for(workflow: str) -> list[str]:
    """The names under which a server may have what `--workflow` says, the most exact first.

    `misc/interior_design_v0.03_linux.json` may be `interior_design_v0.03_linux`, or `interior_design`.
    """
    name = Path(workflow).name
    stem = Path(workflow).stem
    return list(dict.fromkeys([name, stem, stem.partition(VERSION_MARK)[0]]))


def local_image(value: str | None) -> Path | None:
    """The file that is to be uploaded; None: there is no image, or it is a URL.

    Raises: InvalidRequest - there is no such file.
    """
    if value is None or value.startswith(("http://", "https://")):
        return None
    image = Path(value)
    if not is_file(image):
        raise InvalidRequest(
            f"--user_img {value}: there is no such file; give a file of this machine or an http(s) URL."
        )
    return image


def parse_parameters(texts: Sequence[str], *, taken: Collection[str] = ()) -> JsonObject:
    """`NAME=VALUE` as parameters. A value is text, unless it is a JSON number, true, false or a text in quotes.

    Raises: InvalidRequest - one is no `NAME=VALUE`, or a name is given twice; `taken` are names that have a value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lower()
        if not (name and equals):
            raise InvalidRequest(f"-p {text}: a parameter is NAME=VALUE, for instance -p steps=20.")
        if name in found or name in taken:
            raise InvalidRequest(f"-p {text}: {name} is given twice.")
        found[name] = scalar(value)
    return found


def fitted(graph: Graph, flags: Mapping[str, str], parameters: Collection[str]) -> dict[str, str]:
    """The flags whose placeholders a graph has, with their final values: a style by its name.

    Raises: InvalidRequest - the style or the room is unknown, or one of the parameters has no placeholder.
    """
    has = {name for node in graph.values() for name in placeholders(open_parts(node))}
    for name in parameters:
        if name not in has:
            raise InvalidRequest(f"-p {name}: {{{{{name.upper()}}}}} stands nowhere in the workflow.")
    values = {**flags}
    if "style" in flags:
        values["style"] = _style(flags["style"])
    if "room" in flags and flags["room"] not in ROOMS:
        raise InvalidRequest(f"--room {flags['room']} is unknown; there are: {', '.join(ROOMS)}.")
    return {name: value for name, value in values.items() if name in has}


def _style(value: str) -> str:
    numbered = {str(number): name for number, name in enumerate(STYLES)}
    if value not in STYLES and value not in numbered:
        known = ", ".join(f"{name} ({number})" for number, name in numbered.items())
        raise InvalidRequest(f"--style {value} is unknown; there are: {known}.")
    return numbered.get(value, value)


def scalar(text: str) -> Any:
    """Return what VALUE means: itself, unless it is a JSON number, true, false or a text in quotes."""
    try:
        value = loads(text.encode())
    except (InvalidBody, UnicodeEncodeError):
        return text
    return value if isinstance(value, (str, int, float, bool)) else text
