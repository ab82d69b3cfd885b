"""Why a job waits: a record of what the forecast saw happen to it, and a sentence made from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from core.scheduling.ahead import Start
from core.scheduling.gates import Gate
from core.scheduling.lines import Line, ModelSet

Code: TypeAlias = Literal[
    "no_gpu",  # No GPU of the fleet can run it.
    "fetching",  # Its model files are on their way to a GPU.
    "paused",  # Its batch is paused.
    "tenant_full",  # Its tenant runs as many jobs as it may,
    "batch_full",  # or its batch does.
    "now",  # An idle GPU takes it at once.
    "held",  # The GPU that takes it holds its models, and is busy.
    "busy",  # It needs no models, and every GPU that can run it is busy.
    "load",  # A GPU will load its models for it.
    "higher_priority",  # The GPU that takes it first runs jobs of higher priority,
    "deadline",  # or with a deadline that is near,
    "other_tenant",  # or of tenants whose turn it is before,
    "other_models",  # or younger ones for the models that it holds then,
    "needier",  # or younger ones that it loads models for, because those that hold them have more to do,
    "earlier",  # or older ones.
    "behind",  # Others of its line go first.
    "expires",  # Its deadline passes first.
    "far",  # So many jobs begin before it that the forecast did not come to it.
    "held_back",  # GPUs could run it, but none takes it as things stand.
]

#: What goes first at the GPU that takes the job. Of two that are as frequent the upper one is told.
_FIRST: Final[tuple[Code, ...]] = ("higher_priority", "deadline", "other_tenant", "other_models", "needier", "earlier")
_WHO_GOES_FIRST: Final[Mapping[Code, str]] = {
    "higher_priority": "Jobs of higher priority go first",
    "deadline": "Jobs with a near deadline go first",
    "other_tenant": "It is the turn of other tenants first",
    "other_models": "Jobs for models that {gpu} holds then go first",
    "needier": "Jobs whose models are scarcer go first",
    "earlier": "Earlier jobs go first",
}
#: Where gates keep it waiting, whatever GPUs are idle.
GATED: Final[frozenset[Code]] = frozenset({"paused", "tenant_full", "batch_full"})
#: States of GPUs that are no words.
_STATES: Final[Mapping[str, str]] = {"disk_full": "out of disk space"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a job waits."""

    code: Code
    models: ModelSet = ""
    #: The GPU that takes it, where the forecast saw that.
    gpu: str | None = None
    #: Until it is taken, or until its deadline has passed; None where that is not known.
    in_s: float | None = None
    #: How long models are loaded for it then.
    load_s: float = 0.0
    #: How many jobs go first: of its line (`behind`), of all (`far`), else on that GPU after what it runs now.
    before: int = 0
    #: What it asks of a GPU; of one whose files are fetched, the whole sentence.
    needs: str = ""
    #: The GPUs that could run it and take nothing now, by their states.
    away: Mapping[str, int] = field(default_factory=dict)
    #: Of a gate that is full: how many jobs run that went through it, and how many may at once.
    running: int = 0
    most: int = 0


def reason_of_gate(gate: Gate, start: Start | None, *, models: ModelSet) -> Reason:
    """Return why jobs wait behind a gate.

    Parameters:
      start: when the job is taken, where the forecast saw that.
    """
    code: Code = "paused" if gate.is_paused else "tenant_full" if gate.key.kind == "tenant" else "batch_full"
    return Reason(
        code=code,
        models=models,
        gpu=None if start is None else start.gpu,
        in_s=None if start is None else start.taken_in_s,
        load_s=0.0 if start is None else start.starts_in_s - start.taken_in_s,
        running=gate.running,
        most=gate.most or 0,
    )


def reason_of_head(line: Line, start: Start, before: Sequence[Start], lines: Mapping[int, Line]) -> Reason:
    """Return why the head of a line waits until it is taken.

    Parameters:
      before: what the same GPU takes before it.
      lines: all lines by their id, as they stand now.
    """
    load_s = start.starts_in_s - start.taken_in_s
    if before:
        counts = Counter(_why_first(line, each, lines[each.line_id]) for each in before)
        code: Code = max(_FIRST, key=lambda each: counts[each])
    elif not start.taken_in_s:
        code = "now"
    elif start.loads:
        code = "load"
    else:
        code = "held" if line.models else "busy"
    return Reason(
        code=code, models=line.models, gpu=start.gpu, in_s=start.taken_in_s, load_s=load_s, before=len(before)
    )


def _why_first(line: Line, start: Start, its: Line) -> Code:
    """Why a job of another line was taken before the head of this one."""
    if its.priority > line.priority:
        return "higher_priority"
    if start.why == "deadline":
        return "deadline"
    if start.in_turn is not None and line.tenant not in start.in_turn:
        return "other_tenant"
    if (start.since_s, its.id) < (line.since_s, line.id):
        return "earlier"
    return "needier" if start.loads else "other_models"


def sentence(reason: Reason, files: Mapping[ModelSet, Sequence[str]]) -> str:
    """Return a reason in plain English.

    Parameters:
      files: of each model set; one that is missing is called the job's models.
    """
    code, gpu = reason.code, reason.gpu or "a GPU"
    models = named(files.get(reason.models, ()))
    when = about(reason.in_s or 0.0)
    if code in _WHO_GOES_FIRST:
        return f"{_WHO_GOES_FIRST[code].format(gpu=gpu)}; {gpu} takes it in {when}."
    texts: dict[Code, str] = {
        "no_gpu": _no_gpu(reason),
        "fetching": reason.needs,
        "paused": "Its batch is paused.",
        "tenant_full": f"Its tenant {_runs_all(reason, when)}",
        "batch_full": f"Its batch {_runs_all(reason, when)}",
        "now": f"{gpu} takes it now"
        + (f", and loads {models} first, which takes {about(reason.load_s)}." if reason.load_s else "."),
        "held": f"Waits for {gpu}, which holds {models} and is free in {when}.",
        "busy": f"All GPUs that can run it are busy; {gpu} is free in {when}.",
        "load": f"{gpu} will load {models} for it in {when}.",
        "behind": f"{counted(reason.before)} like it {'goes' if reason.before == 1 else 'go'} first.",
        "expires": f"Its deadline passes first, in {when}.",
        "far": f"More than {counted(reason.before)} begin before it.",
        "held_back": "GPUs could run it, but none takes it as things stand.",
    }
    return texts[code]


def _runs_all(reason: Reason, when: str) -> str:
    """Return `runs 5 of 5 jobs; gpu0@a takes it in about 4 s.`, as far as that is known."""
    if reason.most == 0:
        return "may run no jobs: its max_running is 0."
    taken = "" if reason.in_s is None else f"; {reason.gpu or 'a GPU'} takes it in {when}"
    return f"runs {reason.running} of {counted(reason.most)}{taken}."


def _no_gpu(reason: Reason) -> str:
    parts = [f"it needs {reason.needs}"] if reason.needs else []
    if reason.away:
        parts.append(_away(reason.away, " that could" if reason.needs else ""))
    return f"No GPU of the fleet can run it now{': ' if parts else ''}{'; '.join(parts)}."


def _away(states: Mapping[str, int], which: str) -> str:
    """Return in which states GPUs are: `all 4 GPUs are drained`, `of 4 GPUs 3 are drained and 1 is starting`."""
    count = sum(states.values())
    by_count = sorted(states.items(), key=lambda each: (-each[1], each[0]))
    words = [(number, _STATES.get(state, state)) for state, number in by_count]
    if len(words) == 1:
        return f"the only GPU{which} is {words[0][1]}" if count == 1 else f"all {count} GPUs{which} are {words[0][1]}"
    shown = [f"{number} {'is' if number == 1 else 'are'} {state}" for number, state in words]
    return f"of {count} GPUs{which} {', '.join(shown[:-1])} and {shown[-1]}"


def about(seconds: float) -> str:
    """Return a duration as one would say it: `about 4 s`, `about 3 min`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 9.5:
        return f"about {round(seconds)} s"
    if seconds < 57.5:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 3570:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {round(seconds / 3600)} h"


def named(names: Sequence[str]) -> str:
    """Return model files as a sentence names them."""
    if not names:
        return "its models"
    if len(names) < 3:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more files"


def counted(jobs: int) -> str:
    """Return `1 job`, `1,234 jobs`."""
    return "1 job" if jobs == 1 else f"{jobs:,} jobs"
