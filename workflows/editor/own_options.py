"""The widgets of a CustomCombo, whose options are the user's own: its class declares only the choice."""

from __future__ import annotations

from workflows.editor.document import StoredNode
from workflows.editor.layout import Layout
from workflows.editor.widgets import Widget

_CLASS, CHOICE, INDEX = "CustomCombo", "choice", "index"
_MAX_OPTIONS = 1000


def add_own_options(stored: StoredNode, layout: Layout) -> None:
    """Add a widget for each option that a CustomCombo is stored with, and for the number of the one that is chosen."""
    if stored.type != _CLASS or not layout.widgets:
        return
    values = stored.values if isinstance(stored.values, list) else []
    layout.widgets.append(Widget(name=INDEX, type=INDEX, value=-1, has_input=False))
    for number, value in enumerate([*values[2 : 2 + _MAX_OPTIONS], ""], 1):
        layout.widgets.append(Widget(name=f"option{number}", type="STRING", value="", has_input=False))
        if not value:
            break


def number_of_choice(widgets: list[Widget], choice: object) -> int:
    """Return which of a CustomCombo's options is chosen, counted from 0; -1 if none is."""
    options = [widget.value for widget in widgets if widget.name.startswith("option")]
    return next((number for number, option in enumerate(options) if option == choice), -1)
