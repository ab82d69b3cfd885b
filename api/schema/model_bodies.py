"""The bodies in which operators enter model files in the manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from api.schema.blocks import Block
from api.schema.validation import Body
from core.model_files.entries import MAX_LABELS, MAX_PATH_CHARS
from core.model_files.sources import FORMS, MAX_SOURCE_CHARS
from core.records.model_file import ModelFile

#: Entries in one request.
MAX_ENTRIES = 10_000
MAX_TOKEN_CHARS = 4096
_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN_CHARS}}}")
ENTRY_EXAMPLE: dict[str, Any] = {
    "path": "checkpoints/sd_xl_base_1.0.safetensors",
    "source": "hf://stabilityai/stable-diffusion-xl-base-1.0@main/sd_xl_base_1.0.safetensors",
    "sha256": "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
    "size_bytes": 6938078334,
    "pools": ["h100"],
    "tags": ["sdxl"],
    "token": "hub",
}
Label = Annotated[str, Field(max_length=64)]


def _token(value: Any) -> str:
    # No answer repeats what was sent.
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ValueError(f"text of 1 to {MAX_TOKEN_CHARS} printable ASCII characters without spaces")
    return value


Token = Annotated[
    Any,
    AfterValidator(_token),
    WithJsonSchema({"type": "string", "maxLength": MAX_TOKEN_CHARS, "description": "Sealed, and never shown again."}),
]


class ModelTokenBody(Body):
    """A token for model sources."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "hf_..."}]})

    token: Token


class ModelFileBody(Block):
    """A model file that the fleet may fetch."""

    model_config = ConfigDict(json_schema_extra={"examples": [ENTRY_EXAMPLE]})
    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("url", "uri", "href", "from"), "source"),
        **dict.fromkeys(("sha", "hash", "checksum", "digest"), "sha256"),
        **dict.fromkeys(("size", "bytes"), "size_bytes"),
        **dict.fromkeys(("pool",), "pools"),
        **dict.fromkeys(("tag",), "tags"),
        **dict.fromkeys(("name", "file", "filename"), "path"),
    }

    path: str = Field(
        max_length=MAX_PATH_CHARS,
        description="As ComfyUI sees it: the folder of its kind, and what graphs call it.",
    )
    source: str = Field(max_length=MAX_SOURCE_CHARS, description=f"Where it comes from: {FORMS}.")
    sha256: str | None = Field(
        None, max_length=64, description="Of the whole file, in hexadecimal. May be left out for hf://, whose hub says."
    )
    size_bytes: int | None = Field(None, ge=1, le=2**53, description="Of the whole file.")
    tags: list[Label] = Field(
        default_factory=list, max_length=MAX_LABELS, description="Hosts with COMFYLINE_MODELS_TAGS of these keep it."
    )
    pools: list[Label] = Field(
        default_factory=list, max_length=MAX_LABELS, description="Hosts of these pools (COMFYLINE_POOL) keep it."
    )
    token: Label | None = Field(
        None, description="The name of a token that was entered, or stands on the hosts; never the token itself."
    )

    def to_entry(self) -> ModelFile:
        """Return the entry that is meant."""
        return ModelFile(
            path=self.path,
            source=self.source,
            sha256=None if self.sha256 is None else self.sha256.lower(),
            size_bytes=self.size_bytes,
            tags=tuple(dict.fromkeys(self.tags)),
            pools=tuple(dict.fromkeys(self.pools)),
            token=self.token or None,
        )


class ModelFilesBody(Body):
    """Model files to be entered, all or none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_files": [ENTRY_EXAMPLE]}]})

    model_files: list[ModelFileBody] = Field(
        min_length=1, max_length=MAX_ENTRIES, description="One whose path is there already takes its place."
    )
