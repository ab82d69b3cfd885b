"""The error tree: complete in its docstring, whole after pickling, and codes that mean one thing each."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from core import errors
from core.errors import ComfylineError, InvalidWorkflow, PromptFailed, PromptRejected, RequestError, TransientError

#: Codes that more than one class carries, because to a client it is one thing.
SHARED_CODES = {
    "invalid_request": {"RequestError", "InvalidBody", "InvalidParameter", "InvalidRequest", "UnstorableValue"},
    "invalid_workflow": {"InvalidWorkflow", "PromptRejected"},
}
#: An argument for every parameter of every constructor in the tree.
ARGUMENTS: dict[str, Any] = {
    "message": "what happened",
    "asked_pause_s": 7.0,
    "lacks_room_bytes": 7,
    "node_errors": {"3": {"errors": [{"type": "t"}], "class_type": "K"}},
    "node_id": "3",
    "node_class": "KSampler",
    "exception_type": "RuntimeError",
    "traceback": "line 1\nline 2",
    "size_bytes": 17,
    "job_id": "1f2e",
    "parameter": "width",
    "still_runs": True,
    "limit": "max_waiting",
    "allowed": 3,
    "used": 3,
    "retry_after_s": 7,
}


def _tree(base: type[ComfylineError] = ComfylineError) -> Iterator[type[ComfylineError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)


def _parent(kind: type[ComfylineError]) -> str | None:
    return next((base.__name__ for base in kind.__bases__ if issubclass(base, ComfylineError)), None)


CLASSES = [found for found in _tree() if found.__module__.startswith(f"{errors.__name__}.")]


def _example(kind: type[ComfylineError]) -> ComfylineError:
    if kind.__init__ is Exception.__init__:
        return kind(ARGUMENTS["message"])
    return kind(*(ARGUMENTS[name] for name in list(inspect.signature(kind).parameters)))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_with_its_class_and_fields(kind: type[ComfylineError]) -> None:
    error = _example(kind)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert vars(copy) == vars(error)
    assert copy.args == error.args
    assert (str(copy), copy.details, copy.code) == (str(error), error.details, error.code)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_can_be_rebuilt_from_its_arguments(kind: type[ComfylineError]) -> None:
    # Celery rebuilds an error as `kind(*args)`; without that it becomes its bare base class.
    error = _example(kind)

    assert vars(kind(*error.args)) == vars(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_message_alone_is_enough(kind: type[ComfylineError]) -> None:
    assert str(kind("what happened")) == "what happened"


def test_an_error_without_words_shows_its_class() -> None:
    assert str(errors.QueueFull()) == "QueueFull"


def test_the_docstring_shows_the_tree_as_it_is() -> None:
    assert errors.__doc__ is not None
    lines = re.findall(r"^( {4,})([A-Z]\w+)(?= |$)", errors.__doc__, re.MULTILINE)
    parents: dict[int, str] = {}
    shown = {}
    for indent, name in lines:
        depth = (len(indent) - 4) // 2
        parents[depth] = name
        shown[name] = parents.get(depth - 1)

    assert shown == {kind.__name__: _parent(kind) for kind in CLASSES}


def test_the_package_hands_out_the_whole_tree() -> None:
    assert {kind.__name__ for kind in CLASSES} | {"NodeErrors"} == set(errors.__all__)
    assert all(getattr(errors, kind.__name__) is kind for kind in CLASSES)


def test_a_code_means_one_thing() -> None:
    users: dict[str, set[str]] = {}
    for kind in CLASSES:
        users.setdefault(kind.code, set()).add(kind.__name__)

    assert {code: names for code, names in users.items() if len(names) > 1} == SHARED_CODES
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in users)


def test_every_transient_error_says_when_to_try_again() -> None:
    assert all((kind.retry_after_s or 0) > 0 for kind in CLASSES if issubclass(kind, TransientError))


def test_every_error_is_of_exactly_one_kind() -> None:
    for kind in CLASSES:
        kinds = [each for each in (RequestError, TransientError, errors.PermanentError) if issubclass(kind, each)]
        assert len(kinds) == (0 if kind is ComfylineError else 1), kind


def test_node_errors_are_details_a_client_may_see() -> None:
    for error in (InvalidWorkflow("no", {"1": {}}), PromptRejected("no", {"1": {}})):
        assert error.details == {"node_errors": {"1": {}}}
    assert PromptFailed("no", "1").details is None
