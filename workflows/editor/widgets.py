"""Widgets of the editor: which types of inputs have one, with what value at first, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from workflows.editor.declared import Declared

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
CURVE = "CURVE"
#: Widgets in which the browser makes something that no document holds.
IN_BROWSER = {
    "LOAD_3D": "its pictures are rendered in the browser",
    "WEBCAM": "its picture is taken by a camera of the browser",
}


class _Nothing:
    """No value, as JavaScript's undefined: such a widget is not sent."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()


@dataclass(eq=False, kw_only=True)
class Widget:
    """One widget of a node."""

    name: str
    type: str
    value: Any
    #: Whether documents have a place for its value.
    is_stored: bool = True
    #: Whether the graph gets it.
    is_sent: bool = True
    #: Whether links can take its place.
    has_input: bool = True
    #: Whether it is always as it is at first: what a browser shows in it, no document holds.
    is_fixed: bool = False
    #: Of a text: one of `{a|b}` is drawn when it is queued.
    is_drawn: bool = False
    #: Options of a combo, the first of which stands for null.
    choices: tuple[Any, ...] = ()
    declared: Declared | None = None


def has_widget(each: Declared) -> bool:
    """Whether the editor shows a widget for an input, and not only a socket."""
    return each.widget_type in _MAKERS and not each.forces_input


def widgets_of(each: Declared) -> list[Widget]:
    """Return the widgets for an input, its own first; the inputs of a dynamic combo's option are laid out apart."""
    return list(_MAKERS[each.widget_type](each))


def _plain(default: Any) -> Callable[[Declared], Iterator[Widget]]:
    def make(each: Declared) -> Iterator[Widget]:
        value = each.options.get("default")
        yield _own(each, default if value is None else value)

    return make


def _own(each: Declared, value: Any, **more: Any) -> Widget:
    return Widget(
        name=each.name,
        type=each.widget_type,
        value=value,
        has_input=not each.options.get("socketless"),
        declared=each,
        **more,
    )


def _int(each: Declared) -> Iterator[Widget]:
    yield from _plain(0)(each)
    control = each.options.get("control_after_generate")
    if control is None:
        control = each.name in ("seed", "noise_seed")
    if control:
        yield _control("control_after_generate")


def _float(each: Declared) -> Iterator[Widget]:
    yield from _plain(0)(each)
    if each.options.get("control_after_generate"):
        yield _control("control_after_generate")


def _control(name: str) -> Widget:
    """A widget that says how another one changes from one run to the next: of that a graph knows nothing."""
    return Widget(name=name, type=name, value="", is_sent=False, has_input=False)


def _text(each: Declared) -> Iterator[Widget]:
    value = each.options.get("default")
    yield _own(each, "" if value is None else value, is_drawn=each.options.get("dynamicPrompts") is True)


def _combo(each: Declared) -> Iterator[Widget]:
    if each.options.get("multi_select"):
        yield _own(each, [])
    else:
        choices = tuple(each.choices)
        first = choices[0] if choices else NOTHING
        yield _own(each, each.options.get("default") or first, choices=choices)
    if each.options.get("control_after_generate"):
        yield _control("control_after_generate")
        yield _control("control_filter_list")


def _dynamic_combo(each: Declared) -> Iterator[Widget]:
    keys = [option.get("key") for option in each.choices if isinstance(option, dict)]
    yield _own(each, keys[0] if keys else NOTHING, choices=tuple(keys))


def _box(each: Declared) -> Iterator[Widget]:
    box = each.options.get("default") or {"x": 0, "y": 0, "width": 512, "height": 512}
    yield _own(each, dict(box))
    for field in ("x", "y", "width", "height"):
        yield Widget(name=field, type="INT", value=box.get(field, 0), is_sent=False, has_input=False)


def _button(each: Declared) -> Iterator[Widget]:
    """A button beside a list of files."""
    yield _own(each, "", is_sent=False)


def _unstored_view(each: Declared) -> Iterator[Widget]:
    yield _own(each, "", is_stored=False, is_sent=False)


def _comparison(each: Declared) -> Iterator[Widget]:
    # Two empty names: ComfyUI wants the input, and looks at nothing in it.
    yield _own(each, ["", ""], is_stored=False)


def _stored_view(each: Declared) -> Iterator[Widget]:
    yield _own(each, "", is_sent=False)


def _scene(each: Declared) -> Iterator[Widget]:
    # ComfyUI looks at nothing in it.
    yield _own(each, "", is_fixed=True)


def _recorder(each: Declared) -> Iterator[Widget]:
    # Where nothing was recorded, the editor sends an empty name.
    yield _own(each, "", is_fixed=True)
    yield Widget(name=each.name, type="button", value="", is_sent=False, has_input=False)


def _three_d(each: Declared) -> Iterator[Widget]:
    for name in ("upload 3d model", "upload extra resources", "clear"):
        yield Widget(name=name, type="button", value="", is_sent=False, has_input=False)
    yield _own(each, "")


_MAKERS: dict[str, Callable[[Declared], Iterator[Widget]]] = {
    "INT": _int,
    "FLOAT": _float,
    "BOOLEAN": _plain(False),
    "STRING": _text,
    "MARKDOWN": _plain(""),
    "TEXTAREA": _plain(""),
    "COMBO": _combo,
    "COLOR": _plain("#000000"),
    "COLORS": _plain([]),
    CURVE: _plain(None),
    "RANGE": _plain({"min": 0.0, "max": 1.0}),
    "BOUNDING_BOX": _box,
    "BOUNDING_BOXES": _plain([]),
    "CHART": _plain({}),
    "GALLERIA": _plain([]),
    "PAINTER": _plain(NOTHING),
    "COMPOSITOR": _plain(NOTHING),
    "VIDEO_EDIT": _plain(NOTHING),
    "LIGHT_INFO_PREVIEW": _plain(NOTHING),
    "IMAGECOMPARE": _comparison,
    "RESOLUTION_PREVIEW": _unstored_view,
    "CAMERA_INFO_STATE": _unstored_view,
    "CAMERA_ANGLE_VIEW": _stored_view,
    "AUDIO_UI": _unstored_view,
    "IMAGEUPLOAD": _button,
    "AUDIOUPLOAD": _button,
    "AUDIO_RECORD": _recorder,
    "PREVIEW_3D": _scene,
    "LOAD_3D_ADVANCED": _stored_view,
    "LOAD_3D": _three_d,
    "WEBCAM": _plain(""),
    DYNAMIC_COMBO: _dynamic_combo,
}
