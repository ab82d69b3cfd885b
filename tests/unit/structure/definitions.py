"""What the code defines: functions, classes and methods by their names, and where a name leads to."""

from __future__ import annotations

import ast
from functools import cache

from tests.unit.structure.test_rulers import TREES

Function = ast.FunctionDef | ast.AsyncFunctionDef
#: A class or function: its module, and its name there.
Place = tuple[str, str]


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
