"""What `/object_info` says of the inputs of a class, in the order in which the editor lays them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

#: Classes that the editor gives a player of sounds.
_PLAYERS = frozenset({"LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced"})
#: Inputs that the editor itself gives to classes, to show something.
_VIEWS = {
    "Load3DAdvanced": ("viewport_state", "LOAD_3D_ADVANCED"),
    "Preview3D": ("image", "PREVIEW_3D"),
    "SaveGLB": ("image", "PREVIEW_3D"),
}
_PICTURE_UPLOADS = ("image_upload", "video_upload", "animated_image_upload")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One declared input."""

    name: str
    #: `COMBO` for all lists of options.
    type: str
    options: Mapping[str, Any]
    is_optional: bool = False
    #: Added by the editor: ComfyUI knows no such input.
    is_view: bool = False

    @property
    def widget_type(self) -> str:
        """The type of its widget, if that type has one."""
        named = self.options.get("widgetType")
        return named if isinstance(named, str) and named else self.type

    @property
    def forces_input(self) -> bool:
        return bool(self.options.get("forceInput"))

    @property
    def choices(self) -> list[Any]:
        """The options of a combo."""
        found = self.options.get("options")
        return list(found) if isinstance(found, (list, tuple)) else []

    def renamed(self, name: str) -> Declared:
        return replace(self, name=name)


def declared(name: str, info: Any, *, is_optional: bool = False, is_view: bool = False) -> Declared:
    """Read one `[type, options]`."""
    parts = list(info) if isinstance(info, (list, tuple)) and info else ["*"]
    type_ = parts[0]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    if isinstance(type_, (list, tuple)):
        type_, options = "COMBO", {**options, "options": list(type_)}
    return Declared(
        name=name,
        type=type_ if isinstance(type_, str) else "*",
        options=options,
        is_optional=is_optional,
        is_view=is_view,
    )


def declared_inputs(declaration: Any) -> list[Declared]:
    """Read `{"required": {name: [type, options]}, "optional": {...}}`, in that order."""
    found: dict[str, Declared] = {}
    for category in ("required", "optional"):
        inputs = declaration.get(category) if isinstance(declaration, Mapping) else None
        for name, info in (inputs if isinstance(inputs, Mapping) else {}).items():
            found[name] = declared(name, info, is_optional=category == "optional")
    return list(found.values())


def class_inputs(class_type: str, info: Mapping[str, Any]) -> list[Declared]:
    """Return the inputs of a class with those that the editor adds, as they are declared: required before optional."""
    inputs = declared_inputs(info.get("input"))
    required = [each for each in inputs if not each.is_optional]
    added = {each.name: each for each in _added(class_type, required)}
    kept = [added.pop(each.name, each) for each in required]
    return [*kept, *added.values(), *(each for each in inputs if each.is_optional)]


def in_order(inputs: list[Declared], info: Mapping[str, Any]) -> list[Declared]:
    """Return inputs in the order of `input_order`, where the class has one; what it does not name comes last."""
    order = info.get("input_order")
    if not isinstance(order, Mapping) or not order:
        return inputs
    by_name = {each.name: each for each in inputs}
    ordered: dict[str, Declared] = {}
    for category, is_optional in (("required", False), ("optional", True)):
        for name in order.get(category) or ():
            each = by_name.get(name)
            if each is not None and each.is_optional == is_optional:
                ordered[name] = each
    return list({**ordered, **{each.name: each for each in inputs if each.name not in ordered}}.values())


def _added(class_type: str, required: list[Declared]) -> Iterator[Declared]:
    upload = next((each for each in required if _takes_pictures(each)), None)
    if upload is not None:
        yield declared("upload", ["IMAGEUPLOAD", {}], is_view=True)
    if class_type in _PLAYERS:
        yield declared("audioUI", ["AUDIO_UI", {}], is_view=True)
    if any(each.name == "audio" and each.options.get("audio_upload") is True for each in required):
        yield declared("upload", ["AUDIOUPLOAD", {}], is_view=True)
    if class_type in _VIEWS:
        name, type_ = _VIEWS[class_type]
        yield declared(name, [type_, {}], is_view=True)


def _takes_pictures(each: Declared) -> bool:
    return each.type == "COMBO" and any(each.options.get(name) is True for name in _PICTURE_UPLOADS)
