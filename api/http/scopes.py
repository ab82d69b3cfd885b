"""Which scope a route needs: said beside its view, and looked up before the view runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from core.records.access import Scope

#: In place of a scope: any key will do.
ANY_KEY: Final = "any"
Needed: TypeAlias = Scope | Literal["any"]
#: What a route needs that says nothing.
_UNSAID: Needed = "admin"
_ATTRIBUTE = "__scope__"


def say_scope(view: Callable[..., Any], scope: Needed) -> None:
    """Note the scope that a view needs."""
    setattr(view, _ATTRIBUTE, scope)


def scope_of(view: Callable[..., Any] | None) -> Needed:
    """Return the scope that a view needs; `admin` where nothing was said. None: there is no such route."""
    if view is None:
        return ANY_KEY
    found: Needed = getattr(view, _ATTRIBUTE, _UNSAID)
    return found
