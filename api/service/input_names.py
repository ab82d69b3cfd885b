"""Input files by their file names: what `/upload/image` answers as `filename` may stand in a graph as it is.

As in ComfyUI's own input folder a name means one content: who uploads something else under a name that is taken gets
another name in the answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from workflows.graphs.file_names import safe_name, without_annotation
from workflows.graphs.graph import Graph
from workflows.graphs.references import Reference

#: Names that are tried before one is made of the id of the file, which nobody else has.
MAX_TRIES = 50
#: A file that an instance lists here is in its input folder, under a name that any of its nodes may take.
_LISTING = ("LoadImage", "image")


def settle_name(file: InputFile, ledger: Ledger, catalogues: Catalogues) -> InputFile:
    """Return the file under a name that means it and nothing else: `room.png`, else `room_1.png` and so on."""
    name = safe_name(file.name)
    stem, dot, extension = name.rpartition(".") if "." in name else (name, "", "")
    tries = [name, *(f"{stem}_{number}{dot}{extension}" for number in range(1, MAX_TRIES))]
    current = file
    with ledger_time_limit():
        for candidate in [*tries, f"{stem}_{file.id[:8]}{dot}{extension}"]:
            if catalogues.lists_file(*_LISTING, candidate):
                continue
            if current.name != candidate:
                ledger.input_files.rename(file.id, candidate)
                current = replace(current, name=candidate)
            # Asked after it was written: of two that take one name at once, both see both, and the younger goes on.
            if ledger.input_files.named([candidate], of=file.tenant)[candidate].hash == file.hash:
                break
    return current


def find_named(
    graph: Graph, found: Collection[Reference], ledger: Ledger, catalogues: Catalogues, *, tenant: str
) -> list[Reference]:
    """Return the places of a graph that name an input file, where no instance has a file of that name.

    Parameters:
      found: references that are known already.
      tenant: whose files are meant.
    """
    known = {reference.path for reference in found}
    classes = {node["class_type"] for node in graph.values()}
    file_kinds = {class_type: catalogues.file_kinds(class_type) for class_type in classes}
    places = [
        Reference(
            node_id=node_id,
            input_name=name,
            class_type=node["class_type"],
            kind=kind,
            asset=without_annotation(value),
            path=(node_id, "inputs", name),
        )
        for node_id, node in graph.items()
        if (kinds := file_kinds[node["class_type"]])
        for name, value in node["inputs"].items()
        if (kind := kinds.get(name)) is not None
        and isinstance(value, str)
        and value
        and (node_id, "inputs", name) not in known
        and "/" not in value
        and not catalogues.lists_file(node["class_type"], name, value)
    ]
    if not places:
        return []
    with ledger_time_limit():
        named = ledger.input_files.named({place.asset or "" for place in places}, of=tenant)
    return [replace(place, asset=named[place.asset].id) for place in places if place.asset in named]
