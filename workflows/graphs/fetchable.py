"""Graphs that lack nothing but model files which the fleet could fetch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from core.errors import NodeErrors
from core.records.model_file import ModelFile
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.graph import Graph
from workflows.graphs.temporary_files import lacks_only_files

#: The folders that inputs of these names take files from, in ComfyUI and most packs. Others may take any.
_FOLDERS: Mapping[str, frozenset[str]] = {
    "ckpt_name": frozenset({"checkpoints"}),
    "lora_name": frozenset({"loras"}),
    "vae_name": frozenset({"vae", "vae_approx"}),
    "unet_name": frozenset({"unet", "diffusion_models"}),
    "clip_name": frozenset({"clip", "text_encoders", "clip_vision"}),
    "control_net_name": frozenset({"controlnet"}),
    "style_model_name": frozenset({"style_models"}),
    "gligen_name": frozenset({"gligen"}),
    "hypernetwork_name": frozenset({"hypernetworks"}),
    "photomaker_model_name": frozenset({"photomaker"}),
    "audio_encoder_name": frozenset({"audio_encoders"}),
}
_TEXT_ENCODERS = frozenset({"clip", "text_encoders"})
#: The same of single classes of ComfyUI's own, whose inputs have names that others use otherwise.
_FOLDERS_OF_CLASSES: Mapping[tuple[str, str], frozenset[str]] = {
    ("UpscaleModelLoader", "model_name"): frozenset({"upscale_models"}),
    ("LatentUpscaleModelLoader", "model_name"): frozenset({"latent_upscale_models"}),
    ("ModelPatchLoader", "name"): frozenset({"model_patches"}),
    ("CLIPVisionLoader", "clip_name"): frozenset({"clip_vision"}),
    **{
        (class_type, "clip_name"): _TEXT_ENCODERS
        for class_type in ("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader")
    },
}
#: Names that a refusal offers in place of one that is not there, and how many are looked at for that.
MAX_NEAREST, MAX_LOOKED_AT = 3, 5000
#: From 0 to 1, as difflib counts it. Endings are alike anyway.
LIKENESS = 0.75

#: The folders of a manifest that have a file, by what graphs call it.
Folders = Mapping[str, Collection[str]]


def folders_of(manifest: Iterable[ModelFile]) -> dict[str, set[str]]:
    """Return in which folders a manifest has files, by what graphs call them."""
    found: dict[str, set[str]] = {}
    for entry in manifest:
        found.setdefault(entry.name, set()).add(entry.folder)
    return found


def fetchable_files(graph: Graph, node_errors: NodeErrors, manifest: Folders) -> frozenset[str]:
    """Return the model files that a graph lacks, if that is all that is wrong with it and the manifest has all of them.

    Parameters:
      node_errors: what `check_graph`, or ComfyUI, says against the graph.
    Returns: nothing, if anything else is wrong.
    """
    if not lacks_only_files(graph, node_errors):
        return frozenset()
    missing = list(_missing(graph, node_errors))
    if all(has_folder_for(place, manifest.get(name, ())) for place, name in missing):
        return frozenset(name for _, name in missing)
    return frozenset()


def nearest_names(
    graph: Graph, node_errors: NodeErrors, catalogue: CompiledCatalogue, manifest: Folders
) -> tuple[str, list[str]] | None:
    """Return the first file that a graph lacks, and the names most like it that there are. None: nothing is like it."""
    for node_id in node_errors:
        for (class_type, input_name), name in _missing(graph, {node_id: node_errors[node_id]}):
            node = catalogue.node(class_type)
            spec = node.by_name.get(input_name) if node else None
            listed = [each for each in (spec.choices if spec else None) or () if isinstance(each, str)]
            if found := nearest_files(name, (class_type, input_name), listed, manifest):
                return name, found
    return None


def nearest_files(name: str, place: tuple[str, str], listed: Iterable[str], manifest: Folders) -> list[str]:
    """Return the files most like a name that there are for an input of a class, in a list or in the manifest."""
    known = (each for each, folders in manifest.items() if has_folder_for(place, folders))
    names = list(dict.fromkeys((*listed, *known)))[:MAX_LOOKED_AT]
    return difflib.get_close_matches(name, names, n=MAX_NEAREST, cutoff=LIKENESS)


def has_folder_for(place: tuple[str, str], folders: Collection[str]) -> bool:
    """Return whether an input of a class may take a file from one of these folders."""
    class_type, input_name = place[0], re.sub(r"_?\d+$", "", place[1])
    wanted = _FOLDERS_OF_CLASSES.get((class_type, input_name), _FOLDERS.get(input_name))
    return bool(folders) and (wanted is None or not wanted.isdisjoint(folders))


def _missing(graph: Graph, node_errors: NodeErrors) -> Iterable[tuple[tuple[str, str], str]]:
    """Yield the class and input, and the name of the file, that errors are about."""
    for node_id, entry in node_errors.items():
        for error in entry["errors"]:
            input_name = error.get("extra_info", {}).get("input_name")
            value = graph[node_id]["inputs"].get(input_name) if node_id in graph else None
            if isinstance(input_name, str) and isinstance(value, str):
                yield (graph[node_id]["class_type"], input_name), value
