"""How straight data goes: calls are followed from one parameter through every project function that gets it.

Followed are the parameter, its parts, and what functions make of them, but no plain values such as ids: those are
everywhere. Modules are rooms, and the longest path of imports below a module is its floor. A walk climbs where what one
room has made is handed to a room on a higher floor; between the same two rooms this counts once. The graph library is
one room: how it looks at a graph is no matter of a job.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from tests.unit.structure.test_rulers import TREES, imports

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: A class or function: its module, and its name there.
Place = tuple[str, str]
Rooms = frozenset[str]
#: Annotations of what is not followed further: an id or a number is everywhere.
PLAIN = {"str", "int", "float", "bool", "bytes", "Path", "None", "NoReturn", "Status"}
#: Functions of the standard library that return what they are given.
WRAPPERS = {"dict", "enumerate", "list", "replace", "set", "sorted", "tuple", "zip"}
#: Packages that are one room.
SUITES = ("workflows.graphs",)
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


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    """Return the functions and classes of a module by name, methods as `Class.method`."""
    found: dict[str, ast.AST] = {}
    for node in TREES[module].body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}": each for each in node.body if isinstance(each, Function)}
        if isinstance(node, ast.ClassDef | Function):
            found[node.name] = node
    return found


def place_of(module: str, name: str) -> Place | None:
    """Return where a name of a module is defined, if that is in the project."""
    if name in definitions(module):
        return module, name
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and node.module in TREES:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return place_of(node.module, alias.name)
    return None


def class_in(module: str, annotation: ast.AST | None) -> Place | None:
    """Return the first project class that an annotation names: of a container, what it holds."""
    names = (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)) if annotation else ()
    return next((place for name in names if (place := place_of(module, name)) and is_class(place)), None)


def is_class(place: Place) -> bool:
    """Tell classes from functions."""
    return isinstance(definitions(place[0])[place[1]], ast.ClassDef)


def method_of(owner: Place, name: str) -> Place | None:
    """Return where a method of a class is defined: there, or in a base."""
    module, class_name = owner
    if f"{class_name}.{name}" in definitions(module):
        return module, f"{class_name}.{name}"
    node = definitions(module)[class_name]
    assert isinstance(node, ast.ClassDef)
    bases = (class_in(module, base) for base in node.bases)
    return next((found for base in bases if base and (found := method_of(base, name))), None)


@cache
def attribute_type(owner: Place, name: str) -> Place | None:
    """Return the class of an attribute, by its annotation or by what `__init__` assigns."""
    module, class_name = owner
    node = definitions(module)[class_name]
    assert isinstance(node, ast.ClassDef)
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == name:
            return class_in(module, each.annotation)
    if (method := method_of(owner, name)) is not None:
        return class_in(method[0], function_at(method).returns)
    if (first := method_of(owner, "__init__")) is not None:
        scope = Scope.of(first)
        for line in ast.walk(function_at(first)):
            if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == f"self.{name}":
                return scope.type_of(line.value)
            if isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == f"self.{name}":
                return class_in(module, line.annotation)
    return None


def annotation_of(owner: Place, name: str) -> ast.AST | None:
    """Return the annotation of a record's field or property."""
    node = definitions(owner[0])[owner[1]]
    assert isinstance(node, ast.ClassDef)
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == name:
            return each.annotation
        if isinstance(each, ast.FunctionDef) and each.name == name:
            return each.returns
    bases = (class_in(owner[0], base) for base in node.bases)
    return next((found for base in bases if base and (found := annotation_of(base, name))), None)


def function_at(place: Place) -> Function:
    """Return a function's definition."""
    node = definitions(place[0])[place[1]]
    assert isinstance(node, Function)
    return node


def parameters(function: Function) -> list[ast.arg]:
    """Return all parameters by their order."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def targets(node: ast.AST) -> list[str]:
    """Return the plain names that an assignment gives values to."""
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]


def constants(node: ast.AST) -> set[str]:
    """Return the constants of an annotation."""
    return {str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}


@dataclass
class Scope:
    """What is known of the names in one function."""

    module: str
    types: dict[str, Place] = field(default_factory=dict)

    @classmethod
    def of(cls, place: Place) -> Scope:
        """Return the scope of a function at its beginning."""
        module, name = place
        given = parameters(function_at(place))
        types = {each.arg: found for each in given if (found := class_in(module, each.annotation))}
        if "." in name:
            types["self"] = types["cls"] = (module, name.partition(".")[0])
        return cls(module, types)

    def type_of(self, value: ast.AST) -> Place | None:
        """Return the project class of a value."""
        if isinstance(value, ast.Name):
            return self.types.get(value.id)
        if isinstance(value, ast.Attribute):
            owner = self.type_of(value.value)
            return attribute_type(owner, value.attr) if owner else None
        if isinstance(value, ast.Call) and (called := self.called(value.func)):
            return called if is_class(called) else class_in(called[0], function_at(called).returns)
        if isinstance(value, ast.Subscript | ast.Starred):
            return self.type_of(value.value)
        return None

    def called(self, callee: ast.AST) -> Place | None:
        """Return the function or class that is called by an expression."""
        if isinstance(callee, ast.Name):
            return place_of(self.module, callee.id)
        if not isinstance(callee, ast.Attribute):
            return None
        owner = self.type_of(callee.value)
        if owner is None and isinstance(callee.value, ast.Name):
            owner = place_of(self.module, callee.value.id)
        return method_of(owner, callee.attr) if owner and is_class(owner) else None

    def rooms_of(self, value: ast.AST, held: Mapping[str, Rooms]) -> Rooms:
        """Return the rooms that a value comes from, by what it is or is made of; none for one that is not followed."""
        if isinstance(value, ast.Name):
            return held.get(value.id, Rooms())
        if isinstance(value, ast.Attribute):
            return self.rooms_of(value.value, held) if self._is_record(value) else Rooms()
        if isinstance(value, ast.Call):
            return self._rooms_of_answer(value, held)
        if isinstance(value, ast.Subscript | ast.NamedExpr | ast.Starred):
            return self.rooms_of(value.value, held)
        parts: Sequence[ast.AST] = ()
        if isinstance(value, ast.List | ast.Tuple | ast.Set):
            parts = value.elts
        elif isinstance(value, ast.IfExp):
            parts = (value.body, value.orelse)
        elif isinstance(value, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            parts = (value.elt,)
        return Rooms().union(*(self.rooms_of(each, held) for each in parts))

    def _rooms_of_answer(self, call: ast.Call, held: Mapping[str, Rooms]) -> Rooms:
        given = (*call.args, *(each.value for each in call.keywords))
        rooms = Rooms().union(*(self.rooms_of(each, held) for each in given))
        if not rooms or not self._is_record(call):
            return Rooms()
        called = self.called(call.func)
        if called is None:
            return rooms
        # A record is made where it is filled in, not where its class is.
        return Rooms([self.module if is_class(called) else called[0]])

    def _is_record(self, value: ast.Attribute | ast.Call) -> bool:
        """Tell whether a part or an answer is worth following: not a plain value, as far as annotations say."""
        if isinstance(value, ast.Attribute):
            owner = self.type_of(value.value)
            annotation = annotation_of(owner, value.attr) if owner else None
        elif isinstance(value.func, ast.Name) and value.func.id in WRAPPERS:
            return True
        elif (called := self.called(value.func)) is None or is_class(called):
            return called is not None
        else:
            annotation = function_at(called).returns
        return annotation is not None and not set(targets(annotation)) | constants(annotation) <= PLAIN


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
