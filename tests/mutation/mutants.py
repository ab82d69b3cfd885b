"""Makes mutants of a module: its text with one small fault each."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

#: What each comparison becomes: its boundary moves, or it says the opposite.
_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
#: Calls that nothing but a reader of the log would miss.
_LOGS = "log"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One fault in one module."""

    path: str
    #: The statement it is in.
    statement: str
    #: The expression or statement as it was, and as it is.
    before: str
    after: str
    #: Which node of the module, in the order of its text, and which of the faults it may have.
    place: tuple[int, int]

    def __str__(self) -> str:
        before, after = _one_line(self.before), _one_line(self.after)
        place = "" if before == self.statement else f"{self.statement}: "
        return f"{self.path}: {place}{before} -> {after}"


def mutants_of(source: str, path: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree = ast.parse(source)
    statement = ""
    for number, node in enumerate(_walk(tree)):
        if isinstance(node, ast.stmt):
            statement = _one_line(ast.unparse(node))
        for which, replacement in enumerate(_faults(node)):
            yield Mutant(
                path=path,
                statement=statement,
                before=ast.unparse(node),
                after=ast.unparse(ast.fix_missing_locations(replacement)),
                place=(number, which),
            )


def with_fault(source: str, mutant: Mutant) -> str:
    """The text of a module with the fault of one of its mutants."""
    tree = ast.parse(source)
    number, which = mutant.place
    node = list(_walk(tree))[number]
    _replace(tree, node, list(_faults(node))[which])
    return ast.unparse(ast.fix_missing_locations(tree))


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node in the order of the text, but none of annotations, docstrings and log lines."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_silent(child):
                yield from _walk(child)


def _is_silent(node: ast.AST) -> bool:
    """A docstring, an assertion for the type checker, or a line for the log."""
    if isinstance(node, (ast.Assert, ast.Import, ast.ImportFrom)):
        return True
    if not isinstance(node, ast.Expr):
        return False
    return isinstance(node.value, ast.Constant) or ast.unparse(node.value).startswith(f"{_LOGS}.")


def _faults(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        yield from _compared_otherwise(node)
    elif isinstance(node, ast.BoolOp):
        operator = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield ast.BoolOp(op=operator, values=node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and _is_plain(node.test):
        yield _with_other_test(node)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
        yield ast.BinOp(left=node.left, op=_ARITHMETIC[type(node.op)](), right=node.right)
    elif isinstance(node, ast.Constant):
        yield from _other_constants(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(value=ast.Constant(value=None))
    elif isinstance(node, ast.Raise):
        yield ast.Pass()


def _compared_otherwise(node: ast.Compare) -> Iterator[ast.AST]:
    for place, operator in enumerate(node.ops):
        for other in _COMPARISONS.get(type(operator), ()):
            operators = [*node.ops[:place], other(), *node.ops[place + 1 :]]
            yield ast.Compare(left=node.left, ops=operators, comparators=node.comparators)


def _other_constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(value=not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(value=node.value + 1)
        yield ast.Constant(value=node.value - 1)


def _with_other_test(node: ast.If | ast.While | ast.IfExp) -> ast.AST:
    changed = copy.copy(node)
    changed.test = ast.UnaryOp(op=ast.Not(), operand=node.test)
    return changed


def _is_plain(test: ast.expr) -> bool:
    """Whether no other fault turns this test round."""
    return not isinstance(test, (ast.Compare, ast.UnaryOp, ast.BoolOp, ast.Constant))


def _is_text(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.JoinedStr) or _is_string(part) for part in (node.left, node.right))


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _replace(tree: ast.AST, target: ast.AST, replacement: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, replacement)
                return
            if isinstance(value, list):
                for place, child in enumerate(value):
                    if child is target:
                        value[place] = replacement
                        return


def _one_line(text: str) -> str:
    """The first line of a statement, for people."""
    first, _, rest = text.partition("\n")
    return f"{first} ..." if rest else first
