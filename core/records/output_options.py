"""What is to be done with a job's outputs, as the ledger keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from core.records.bucket_target import BucketTarget
from core.texts.stored_json import known_fields

PictureFormat: TypeAlias = Literal["webp", "jpeg", "png"]


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """A format that pictures are to be converted to."""

    format: PictureFormat
    #: 1 to 100, of webp and jpeg; None: the format's own.
    quality: int | None = None
    #: Of webp.
    lossless: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what was said."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> ConvertOptions:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - it names no format."""
        return cls(**known_fields(cls, value))


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is to be done with a job's outputs beside keeping them as they are; never a secret."""

    #: Where they are to go as well.
    bucket: BucketTarget | None = None
    convert: ConvertOptions | None = None
    #: Remove the graph that ComfyUI writes into its files.
    strip_metadata: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return `{"s3"?, "convert"?, "strip_metadata"?}`, as a job's row keeps it."""
        value: dict[str, Any] = {}
        if self.bucket is not None:
            value["s3"] = self.bucket.to_json()
        if self.convert is not None:
            value["convert"] = self.convert.to_json()
        if self.strip_metadata:
            value["strip_metadata"] = True
        return value

    @classmethod
    def from_json(cls, value: Any) -> OutputOptions:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - a part of it is no object."""
        given = known_fields(cls, value)
        bucket, convert = value.get("s3"), given.get("convert")
        return cls(
            bucket=None if bucket is None else BucketTarget.from_json(bucket),
            convert=None if convert is None else ConvertOptions.from_json(convert),
            strip_metadata=bool(given.get("strip_metadata")),
        )


#: Nothing is to be done: they are kept as they are.
AS_THEY_ARE = OutputOptions()
