"""What is known of the names in a function: which class a value has, and which rooms it comes from."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from tests.unit.structure.definitions import (
    Place,
    annotation_of,
    class_in,
    constants,
    definitions,
    function_at,
    is_class,
    method_of,
    parameters,
    place_of,
    targets,
)

Rooms = frozenset[str]
#: Annotations of what is not followed further: an id or a number is everywhere.
PLAIN = {"str", "int", "float", "bool", "bytes", "Path", "None", "NoReturn", "Status"}
#: Functions of the standard library that return what they are given.
WRAPPERS = {"dict", "enumerate", "list", "replace", "set", "sorted", "tuple", "zip"}


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
