"""Models shared by the instances of a machine: the file that tells one ComfyUI where they lie."""

from __future__ import annotations

from pathlib import Path

FILE_NAME = "extra_model_paths.yaml"
_SECTION = "comfyline"
#: Kinds of models of ComfyUI's own: named whether their folders are there or not, for files may come to them later, and
#: ComfyUI looks again only into folders that it was told of.
KINDS = (
    *("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models", "embeddings"),
    *("diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "hypernetworks", "photomaker"),
    *("classifiers", "model_patches", "audio_encoders", "latent_upscale_models"),
    # Older names, which it takes for those of today.
    *("unet", "clip"),
)
#: Not kinds of models: the first is a folder of programs that ComfyUI would run, the others mean something else in
#: the file.
_NOT_MODELS = ("custom_nodes", "base_path", "is_default")


def write_model_paths(data_dir: Path, models_dir: Path) -> Path:
    """Write `<data_dir>/extra_model_paths.yaml`, which names the folders below `models_dir`, and return its path.

    They are those of ComfyUI's own kinds, there or not, and all others that are there.

    A sub-folder counts under its own name (`checkpoints`, `loras`, ...). Hidden ones are left out, and so is
    `custom_nodes`: models are shared, programs are not.
    Raises:
      OSError: the folder cannot be read or the file not written.
    """
    folder = models_dir.expanduser().absolute()
    lines = [f"{_SECTION}:", f"  base_path: {_quoted(str(folder))}"]
    lines += [_line(name) for name in _kinds(folder)]
    path = data_dir / FILE_NAME
    # Written beside and renamed, so that no start reads half of it.
    draft = path.with_suffix(".new")
    draft.write_text("\n".join([*lines, ""]), encoding="ascii")
    draft.replace(path)
    return path


def unnamed_folders(data_dir: Path, models_dir: Path) -> frozenset[str]:
    """Return the folders of models that are there and that the file does not name: its instance looks into none.

    Raises:
      OSError: the folder or the file cannot be read.
    """
    lines = frozenset((data_dir / FILE_NAME).read_text(encoding="ascii").splitlines())
    return frozenset(name for name in _kinds(models_dir.expanduser().absolute()) if _line(name) not in lines)


def _line(name: str) -> str:
    return f"  {_quoted(name)}: {_quoted(name)}"


def _kinds(folder: Path) -> list[str]:
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    # ComfyUI takes each line of a value for a folder of its own, so a name with a line break cannot be said.
    others = (name for name in names if not name.startswith(".") and "\n" not in name and name not in _NOT_MODELS)
    return sorted({*KINDS, *others})


def _quoted(text: str) -> str:
    """Return a double-quoted YAML scalar in ASCII: ComfyUI reads the file in the encoding of its locale."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if " " <= char <= "~" else f"\\U{ord(char):08x}"
