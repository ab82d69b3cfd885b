"""What a worker lets in: messages as we publish them, and nothing else.

Whoever reaches the broker can put anything into its queues: another program, an operator by hand, a release of ours
that is years away. Celery trusts what it reads, and much of what it then raises ends the worker; a message that was not
acknowledged ends the next one, too. So each is looked at whole before Celery does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Any

from celery.utils.time import maybe_iso8601
from kombu import Message

from core.messaging.broker_guard import DATA_ERRORS
from tasks.messaging.names import CHECK_UPLOAD, GENERATE, NOTIFY, RECONCILE, UPLOAD

#: What each kind of worker does; the queues it reads hold nothing else of ours.
TASKS_OF = {"gpu": frozenset({GENERATE}), "io": frozenset({UPLOAD, NOTIFY, CHECK_UPLOAD, RECONCILE})}
#: Ours have a few hundred bytes.
MAX_BODY_BYTES = 64 * 1024
_ID = re.compile(r"[A-Za-z0-9._:-]{1,255}")
#: What Celery may be told beside the task and its id; all else that headers hold is left out.
_TEXT_HEADERS = ("lang", "root_id", "parent_id")
#: Of a step that follows; `immutable` is a truth value of any kind.
_STEP_FIELDS = frozenset({"task", "args", "kwargs", "options", "immutable"})
#: What the transport needs of a message's properties to take it back.
_PROPERTIES = ("body_encoding", "delivery_info", "delivery_mode", "delivery_tag")


class Refused(Exception):
    """A message is not one of ours; its words hold nothing of the body."""


def admit(message: Message, tasks: Callable[[str], bool]) -> None:
    """Check a message, and leave in its headers only what was checked.

    Parameters:
      tasks: whether a task of this name is done by this worker.
    Raises:
      Refused: it is not one of ours.
    """
    try:
        message.headers = _headers(message.headers, tasks)
        args = _arguments(message)
        message.headers |= {"argsrepr": _shown(message.headers["task"], args), "kwargsrepr": "{}"}
        properties: dict[str, Any] = {name: message.properties.get(name) for name in _PROPERTIES}
        message.properties = properties
    except DATA_ERRORS as exc:
        raise Refused(f"it cannot be read ({type(exc).__name__})") from None


def _headers(found: Any, tasks: Callable[[str], bool]) -> dict[str, Any]:
    task, task_id, expires = found.get("task"), found.get("id"), found.get("expires")
    if not isinstance(task, str) or not tasks(task):
        raise Refused("it names no task that is done here")
    if not _is_id(task_id):
        raise Refused("it has no id")
    if found.get("eta") is not None:
        # Nothing of ours is for later: that stands in the ledger. Celery would hold it until then.
        raise Refused("it is for later")
    if expires is not None:
        if not isinstance(expires, str):
            raise Refused("its time of expiry is no time")
        maybe_iso8601(expires)
    texts = {name: found[name] for name in _TEXT_HEADERS if _is_id(found.get(name))}
    return {**texts, "task": task, "id": task_id, "expires": expires, "eta": None, "retries": 0, "group": None}


def _arguments(message: Message) -> list[Any]:
    if len(message.body or b"") > MAX_BODY_BYTES:
        raise Refused("it is too long")
    args, kwargs, embedded = message.decode()
    if not isinstance(args, list) or kwargs or not isinstance(embedded, dict):
        raise Refused("its body is not that of a task")
    if not _ARGUMENTS[message.headers["task"]](args):
        raise Refused("its arguments are not those of its task")
    chain = embedded.get("chain") or []
    if not isinstance(chain, list) or not all(_is_step(step) for step in chain):
        raise Refused("what follows it is no chain of tasks")
    if any(embedded.get(name) for name in ("callbacks", "errbacks", "chord")):
        raise Refused("it calls back, which none of ours does")
    return args


def _shown(task: str, args: list[Any]) -> str:
    """Return what Flower shows of the arguments; which job a turn ran is named by its result."""
    return f"a turn, published for {args[0]}" if task == GENERATE else repr(tuple(args))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_step(step: Any) -> bool:
    """Return whether Celery can publish it: what else it could be told, ours never say."""
    if not isinstance(step, dict) or not _is_id(step.get("task")):
        return False
    options = step.get("options")
    return (
        isinstance(step.get("args"), list)
        and step.get("kwargs") == {}
        and isinstance(options, dict)
        and all(name == "queue" and _is_id(value) for name, value in options.items())
        and not any(step.get(name) for name in step.keys() - _STEP_FIELDS)
    )


def _is_job(args: list[Any]) -> bool:
    return len(args) == 1 and _is_id(args[0])


def _is_attempt(args: list[Any]) -> bool:
    """`[[job_id, attempt, ...]]`: later releases may say more."""
    if len(args) != 1 or not isinstance(args[0], list) or len(args[0]) < 2:
        return False
    job_id, attempt = args[0][:2]
    return _is_id(job_id) and type(attempt) is int and 0 < attempt < 2**31


_ARGUMENTS: dict[str, Callable[[list[Any]], bool]] = {
    GENERATE: _is_job,
    UPLOAD: _is_attempt,
    NOTIFY: _is_job,
    CHECK_UPLOAD: _is_job,
    RECONCILE: lambda args: not args,
}


#: What a command of Celery's remote control may say.
_COMMAND_FIELDS = ("method", "arguments", "destination", "pattern", "matcher", "reply_to", "ticket")
#: Of the logical clock that commands carry: larger ones could not be sent on.
_MAX_CLOCK = 2**53


def admit_command(body: Any, message: Message, methods: Container[str]) -> dict[str, Any]:
    """Check a command, and leave in its message's headers only what was checked; returns what it says.

    Parameters:
      methods: names of the commands that this worker knows.
    Raises:
      Refused: it is no command of Celery's remote control.
    """
    if not isinstance(body, dict) or not isinstance(body.get("method"), str) or body["method"] not in methods:
        raise Refused("it names no command")
    found = {name: body[name] for name in _COMMAND_FIELDS if body.get(name) is not None}
    kinds: dict[str, type] = {
        "arguments": dict,
        "destination": list,
        "pattern": str,
        "matcher": str,
        "reply_to": dict,
        "ticket": str,
    }
    if not all(isinstance(found[name], kind) for name, kind in kinds.items() if name in found):
        raise Refused("its fields are of the wrong kind")
    reply_to = found.get("reply_to", {"exchange": "", "routing_key": ""})
    if not all(isinstance(reply_to.get(name), str) for name in ("exchange", "routing_key")):
        raise Refused("it does not say where to answer")
    clock: Any = (message.headers or {}).get("clock")
    headers: dict[str, Any] = {"clock": clock if type(clock) is int and 0 <= clock < _MAX_CLOCK else 0}
    message.headers = headers
    return found
