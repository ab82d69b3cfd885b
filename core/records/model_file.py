"""A model file that the fleet knows how to fetch, as an operator entered it in the manifest."""

from __future__ import annotations

from dataclasses import dataclass


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
