"""How straight data goes: calls are followed from one parameter through every project function that gets it.

Followed are the parameter, its parts, and what functions make of them, but no plain values such as ids: those are
everywhere. Modules are rooms, and the longest path of imports below a module is its floor. A walk climbs where what one
room has made is handed to a room on a higher floor; between the same two rooms this counts once. The graph library is
one room, and so is the one that converts documents: how they look at them is no matter of a job.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache

import pytest

from tests.unit.structure.definitions import Place, function_at, is_class, method_of, parameters, targets
from tests.unit.structure.scopes import Rooms, Scope
from tests.unit.structure.test_rulers import TREES, imports

#: Packages that are one room.
SUITES = ("workflows.graphs", "workflows.editor")
MOST_CLIMBS = 2


@cache
def floor_of(module: str) -> int:
    """Return the length of the longest path of imports below a module."""
    return max((1 + floor_of(name) for name in set(imports(TREES[module])) if name in TREES), default=0)


def room_of(module: str) -> str:
    """Return the room that a module is, or is in."""
    return next((suite for suite in SUITES if module.startswith(f"{suite}.")), module)


def is_up(source: str, target: str) -> bool:
    """Tell whether a step between modules climbs."""
    return room_of(source) != room_of(target) and floor_of(source) < floor_of(target)


class Walk:
    """The stays of a value, from the parameter that it comes in by."""

    def __init__(self, module: str, function: str, parameter: str) -> None:
        #: Functions that got it, in the order of the text.
        self.stays: list[Place] = []
        #: From which room to which it went up.
        self.climbs: set[tuple[str, str]] = set()
        self._seen: set[tuple[Place, Rooms]] = set()
        self._enter((module, function), Rooms([parameter]))

    def _enter(self, place: Place, carried: Rooms) -> None:
        if (place, carried) in self._seen:
            return
        self._seen.add((place, carried))
        if place not in self.stays:
            self.stays.append(place)
        scope, held = Scope.of(place), {name: Rooms([place[0]]) for name in carried}
        for node in in_order(function_at(place)):
            if isinstance(node, ast.Call):
                self._call(node, scope, held)
            elif (pair := assigned(node)) is not None:
                target, value = pair
                if isinstance(target, ast.Name) and (found := scope.type_of(value)):
                    scope.types[target.id] = found
                if rooms := scope.rooms_of(value, held):
                    held |= {name: rooms for name in targets(target) if name != "self"}

    def _call(self, node: ast.Call, scope: Scope, held: Mapping[str, Rooms]) -> None:
        place = scope.called(node.func)
        if place is not None and is_class(place):
            place = method_of(place, "__init__")
        if place is None:
            return
        names = [each.arg for each in parameters(function_at(place)) if each.arg not in ("self", "cls")]
        given = [*zip(names, node.args, strict=False), *((each.arg, each.value) for each in node.keywords)]
        carried = {name: rooms for name, value in given if name and (rooms := scope.rooms_of(value, held))}
        for module in Rooms().union(*carried.values()):
            if is_up(module, place[0]):
                self.climbs.add((room_of(module), room_of(place[0])))
        if carried:
            self._enter(place, Rooms(carried))


def in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is evaluated, about in that order: arguments before their call, a value before its name."""
    if isinstance(node, ast.For | ast.comprehension):
        yield from in_order(node.iter)
        yield node
        children: list[ast.AST] = [*(node.ifs if isinstance(node, ast.comprehension) else node.body + node.orelse)]
    else:
        children = sorted(ast.iter_child_nodes(node), key=lambda child: not isinstance(child, ast.comprehension))
    for child in children:
        yield from in_order(child)
    if not isinstance(node, ast.For | ast.comprehension):
        yield node


def assigned(node: ast.AST) -> tuple[ast.AST, ast.AST] | None:
    """Return what is given a value by a node, and the value."""
    if isinstance(node, ast.Assign):
        return node.targets[0], node.value
    if isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign) and node.value is not None:
        return node.target, node.value
    if isinstance(node, ast.withitem) and node.optional_vars is not None:
        return node.optional_vars, node.context_expr
    if isinstance(node, ast.For | ast.comprehension):
        return node.target, node.iter
    return None


@pytest.mark.parametrize(
    ("module", "function", "parameter"),
    [
        ("api.service.jobs", "JobService.submit", "request"),
        ("tasks.upload", "_bring_in", "runtime"),
        ("tasks.upload", "_store", "pending"),
        ("tasks.runner.recorder", "Recorder.record", "claim"),
    ],
)
def test_what_a_job_is_made_of_climbs_back_at_most_twice(module: str, function: str, parameter: str) -> None:
    walk = Walk(module, function, parameter)

    assert len(walk.stays) > 10, "it was lost sight of"
    assert len(walk.climbs) <= MOST_CLIMBS, walk.climbs
