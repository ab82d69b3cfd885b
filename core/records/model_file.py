"""A model file that the fleet knows how to fetch, as its operator entered it, and what becomes of it on a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: What ComfyUI calls these kinds of models today.
RENAMED_FOLDERS: Final = {"unet": "diffusion_models", "clip": "text_encoders"}
#: Stands among a job's pins in place of a catalogue: none offers its model files yet, and the manifest has them all.
AWAITS_FILES: Final = "awaits-files"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One entry of the manifest."""

    #: As ComfyUI sees it: the kind of model, and the name below that, such as `checkpoints/sdxl/base.safetensors`.
    path: str
    #: `https://...`, `s3://bucket/key` or `hf://owner/name@revision/file`.
    source: str
    #: Of the whole file, as hexadecimal digits; None only where its hub says it.
    sha256: str | None = None
    size_bytes: int | None = None
    #: Hosts that name one of them in COMFYLINE_MODELS_TAGS keep the file.
    tags: tuple[str, ...] = ()
    #: Hosts of one of these pools keep the file.
    pools: tuple[str, ...] = ()
    #: The name of a token in COMFYLINE_MODELS_TOKENS of the GPU hosts; the token itself is in no ledger.
    token: str | None = None
    created_at_ms: int = 0
    updated_at_ms: int = 0

    @property
    def folder(self) -> str:
        """The kind of model, such as `checkpoints`."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """What graphs call it: its path below the folder of its kind."""
        return self.path.partition("/")[2]

    @property
    def listed_path(self) -> str:
        """Its path as instances list it: some kinds have another name by now."""
        return f"{RENAMED_FOLDERS.get(self.folder, self.folder)}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Yield:
    """A file that makes room for another one: until it is gone, GPUs of its host begin no jobs that load it."""

    #: What graphs call it, and the path of the other one.
    name: str
    to: str
    #: The host that wants this: others that share its folder have GPUs that have to heed it, too.
    by: str


@dataclass(frozen=True, kw_only=True)
class ModelCopy:
    """What a host has of a model file of the manifest."""

    host: str
    path: str
    #: It is on its way, it is there, or it could not be fetched and is tried again later.
    state: Literal["fetching", "ready", "failed"]
    #: Of the whole file, as far as that is known.
    size_bytes: int | None = None
    done_bytes: int = 0
    #: How fast it comes, of late.
    bytes_s: float = 0.0
    #: Why it failed.
    error: str | None = None
    updated_at_ms: int = 0

    @property
    def name(self) -> str:
        """What graphs call it."""
        return self.path.partition("/")[2]

    @property
    def left_s(self) -> float | None:
        """How long it takes on, in seconds; None where that cannot be told."""
        if self.state != "fetching" or self.size_bytes is None or self.bytes_s <= 0:
            return None
        return max(0, self.size_bytes - self.done_bytes) / self.bytes_s
