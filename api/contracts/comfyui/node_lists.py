"""What the instances of a fleet offer, as if they were one: their classes together, and of lists the options of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.http.cached import CachedValue
from core.ledger import Ledger
from core.texts.json_types import JsonObject

#: How long one process goes by its last look at which catalogues there are.
MAX_AGE_S = 2.0
_COMBO = "COMBO"
#: Which input of which class of ComfyUI's own lists the files of each folder of models.
FOLDERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "checkpoints": (("CheckpointLoaderSimple", "ckpt_name"),),
    "loras": (("LoraLoader", "lora_name"), ("LoraLoaderModelOnly", "lora_name")),
    "vae": (("VAELoader", "vae_name"),),
    "text_encoders": (("CLIPLoader", "clip_name"), ("DualCLIPLoader", "clip_name1")),
    "diffusion_models": (("UNETLoader", "unet_name"),),
    "clip_vision": (("CLIPVisionLoader", "clip_name"),),
    "style_models": (("StyleModelLoader", "style_model_name"),),
    "controlnet": (("ControlNetLoader", "control_net_name"),),
    "gligen": (("GLIGENLoader", "gligen_name"),),
    "upscale_models": (("UpscaleModelLoader", "model_name"),),
    "hypernetworks": (("HypernetworkLoader", "hypernetwork_name"),),
    "photomaker": (("PhotoMakerLoader", "photomaker_model_name"),),
    "audio_encoders": (("AudioEncoderLoader", "audio_encoder_name"),),
    "model_patches": (("ModelPatchLoader", "name"),),
    "latent_upscale_models": (("LatentUpscaleModelLoader", "model_name"),),
}


@dataclass(frozen=True, kw_only=True)
class OfferedNodes:
    """All classes of a fleet."""

    #: Digests of the catalogues that they are from.
    digests: tuple[str, ...]
    classes: JsonObject
    #: The same as JSON, made once: of a real server it is megabytes.
    text: str
    #: Classes that are gone, and what instances put in their place, as they say it.
    replacements: JsonObject

    def class_text(self, class_type: str) -> str:
        """Return one class as JSON, as ComfyUI answers it: `{}` where there is none."""
        found = self.classes.get(class_type)
        return json.dumps({} if found is None else {class_type: found})

    def model_files(self, folder: str) -> list[str] | None:
        """Return the files of a folder of models that any instance offers; None: there is no such folder."""
        places = FOLDERS.get(folder)
        if places is None:
            return None
        found: dict[str, None] = {}
        for class_type, input_name in places:
            declared = (self.classes.get(class_type) or {}).get("input") or {}
            for group in ("required", "optional"):
                found |= dict.fromkeys(map(str, _options((declared.get(group) or {}).get(input_name)) or ()))
        return list(found)


class NodeLists:
    """The classes of a fleet, as one process knows them."""

    def __init__(self, ledger: Ledger) -> None:
        self._instances = ledger.instances
        self._last = OfferedNodes(digests=(), classes={}, text="{}", replacements={})
        self._offered = CachedValue(self._load, max_age_s=MAX_AGE_S)

    def get(self) -> OfferedNodes:
        """Return what the healthy instances offer; if none is, what all did that are known."""
        return self._offered.get()

    def _load(self) -> OfferedNodes:
        gpus = self._instances.known_gpus()
        alive = [gpu for gpu in gpus if gpu.is_alive] or gpus
        digests = tuple(dict.fromkeys(gpu.catalogue for gpu in alive if gpu.catalogue is not None))
        if digests != self._last.digests:
            catalogues = [self._instances.catalogue(digest) for digest in digests]
            classes = in_order(merged([present(catalogue) for catalogue in catalogues]))
            replaced = replacements(catalogues, classes)
            self._last = OfferedNodes(digests=digests, classes=classes, text=json.dumps(classes), replacements=replaced)
        return self._last


def present(catalogue: Mapping[str, Any]) -> JsonObject:
    """Return the classes that an instance has: a catalogue also holds those that it replaces."""
    return {name: info for name, info in catalogue.items() if not _is_replaced(info)}


def replacements(catalogues: Sequence[Mapping[str, Any]], classes: Mapping[str, Any]) -> JsonObject:
    """Return `{class that is gone: [what may stand in its place]}`, as ComfyUI's editor wants it."""
    return {
        name: info["replacements"]
        for catalogue in reversed(catalogues)
        for name, info in catalogue.items()
        if _is_replaced(info) and info.get("replacements") and name not in classes
    }


def _is_replaced(info: Any) -> bool:
    return isinstance(info, Mapping) and "replaced_by" in info


def in_order(classes: JsonObject) -> JsonObject:
    """Return classes whose inputs stand in their `input_order`: editors go by it, and earlier versions kept none."""
    return {class_type: _ordered(info) for class_type, info in classes.items()}


def _ordered(info: Any) -> Any:
    inputs, order = (info.get("input"), info.get("input_order")) if isinstance(info, Mapping) else (None, None)
    if not isinstance(inputs, Mapping) or not isinstance(order, Mapping):
        return info
    sorted_inputs = {
        group: {
            name: declared[name] for name in dict.fromkeys((*(order.get(group) or ()), *declared)) if name in declared
        }
        if isinstance(declared, Mapping)
        else declared
        for group, declared in inputs.items()
    }
    return {**info, "input": sorted_inputs}


def merged(catalogues: Sequence[Mapping[str, Any]]) -> JsonObject:
    """Return all classes of some catalogues. Of one that several have, the first says what it is like, and its lists
    hold the options of all: a model that one GPU has can be chosen.
    """
    found: JsonObject = dict(catalogues[0]) if catalogues else {}
    for catalogue in catalogues[1:]:
        for class_type, info in catalogue.items():
            known = found.get(class_type)
            if known is None:
                found[class_type] = info
            elif known != info:
                found[class_type] = _joined(known, info)
    return found


def _joined(known: Any, other: Any) -> Any:
    if not isinstance(known, Mapping) or not isinstance(other, Mapping):
        return known
    ours, theirs = known.get("input"), other.get("input")
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return known
    inputs = {
        group: {name: _with_options(each, (theirs.get(group) or {}).get(name)) for name, each in declared.items()}
        if isinstance(declared, Mapping)
        else declared
        for group, declared in ours.items()
    }
    return {**known, "input": inputs}


def _with_options(known: Any, other: Any) -> Any:
    ours = _options(known)
    more = [] if ours is None else [option for option in _options(other) or () if option not in ours]
    if ours is None or not more:
        return known
    if isinstance(known[0], list):
        return [[*ours, *more], *known[1:]]
    return [known[0], {**known[1], "options": [*ours, *more]}, *known[2:]]


def _options(declared: Any) -> list[Any] | None:
    """The options of an input that is a list of them, in the old way or the new one; None: it is no list."""
    if not isinstance(declared, (list, tuple)) or not declared:
        return None
    if isinstance(declared[0], list):
        return declared[0]
    if declared[0] == _COMBO and len(declared) > 1 and isinstance(declared[1], Mapping):
        options = declared[1].get("options")
        return options if isinstance(options, list) else None
    return None
