"""What `/object_info` says for sure about a node class, and what only its server can know.

The description is JSON: whatever a class brings as Python code has gone from it. So there are three grades.

Sure of every class, since ComfyUI asks no class about it: which classes there are, which required inputs are missing,
what has the shape of a link and leads to a node, whether a literal can be converted to INT or FLOAT, cycles.

Sure of ComfyUI's own classes only: types and output slots. A pack's types may be strings that compare themselves (a
`FLOAT` that takes `INT`), and its list of outputs may answer any index.

Sure only of ComfyUI's own classes that are known not to judge for themselves: ranges and lists of options. A class with
a validation function of its own that names an input, or takes them all, has that input's range and list unchecked, and
the description does not tell. Packs do so where their editor part fills a list.
"""

from __future__ import annotations

#: Packages of ComfyUI's own classes, by `python_module`; a pack that replaces one of them shows its own name there.
_BUILT_IN = ("nodes", "comfy_extras", "comfy_api_nodes", "comfy.simulator")

#: Modules whose classes, from 0.3.45 on, leave ranges and lists to ComfyUI, but for those in `_JUDGE_THEMSELVES`. One
#: that is not here costs no more than a later answer, so those are here in which clients err most: loaders of models,
#: samplers, sizes.
_PLAIN_MODULES = frozenset(
    {
        "nodes",
        "comfy.simulator",
        "comfy_extras.nodes_custom_sampler",
        "comfy_extras.nodes_flux",
        "comfy_extras.nodes_hunyuan",
        "comfy_extras.nodes_hypernetwork",
        "comfy_extras.nodes_model_advanced",
        "comfy_extras.nodes_photomaker",
        "comfy_extras.nodes_primitive",
        "comfy_extras.nodes_sd3",
        "comfy_extras.nodes_upscale_model",
        "comfy_extras.nodes_video_model",
    }
)

#: Classes of those modules with a validation function of their own, and the inputs it names.
_JUDGE_THEMSELVES = {
    "LoadImage": frozenset({"image"}),
    "LoadImageMask": frozenset({"image"}),
    "LoadImageOutput": frozenset({"image"}),
    "LoadLatent": frozenset({"latent"}),
}

#: What ComfyUI's own loaders list of the top of the input folder, by the kind of their input. A file of such a name
#: that is not listed is not there; other endings are not listed and loaded all the same. Which it knows depends on the
#: machine: without a system's table of types, Python has none for `.flac`, `.ogg` and `.mkv`.
_LISTED_ENDINGS = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
    "audio": (".mp3", ".wav"),
    "video": (".mp4", ".webm", ".mov"),
}
_FILE_LOADERS = frozenset({"LoadImage", "LoadImageMask", "LoadAudio", "LoadVideo"})


def is_built_in(module: object) -> bool:
    """Whether a class with this `python_module` is ComfyUI's own: its types and outputs are what they look like."""
    return isinstance(module, str) and any(module == own or module.startswith(f"{own}.") for own in _BUILT_IN)


def has_plain_values(module: object, class_type: str, input_name: str) -> bool:
    """Whether ComfyUI itself checks this input's range and list of options."""
    return module in _PLAIN_MODULES and input_name not in _JUDGE_THEMSELVES.get(class_type, ())


def lists_files(module: object, class_type: str) -> bool:
    """Whether a class is a loader of ComfyUI's own that lists the files directly in the input folder."""
    return is_built_in(module) and class_type in _FILE_LOADERS


def would_be_listed(kind: str, name: str) -> bool:
    """Whether such a loader would list a file of this name if it were there; what lies in folders never is."""
    return "/" not in name and name.lower().endswith(_LISTED_ENDINGS.get(kind, ()))
