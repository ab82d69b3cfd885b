"""What each GPU takes next, and why: out of what the forecast saw, as a record and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from core.scheduling.ahead import Start
from core.scheduling.forecast import Forecast
from core.scheduling.lines import ModelSet
from core.scheduling.picture import FleetGpu, Picture
from core.scheduling.reasons import GATED, about, counted, named

NextCode: TypeAlias = Literal[
    "warm",  # A job whose models it holds,
    "no_models",  # or one that needs none,
    "unheld",  # or one whose models no GPU holds,
    "relief",  # or one whose models others hold, who have too much to do,
    "deadline",  # or one that would else begin too late.
    "nothing_waits",  # Nothing: no job waits,
    "cannot_run",  # or it can run none of those that do,
    "gated",  # or their tenants or batches run as many as they may, or are paused,
    "left_to_others",  # or others will have begun them sooner.
    "far",  # So many jobs begin elsewhere first that the forecast did not come to it.
    "takes_none",  # Nothing, as long as it is not healthy.
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What a GPU takes next."""

    code: NextCode
    #: The job's line and its index there, the head being 0; None where it takes nothing.
    line_id: int | None = None
    index: int | None = None
    models: ModelSet = ""
    #: Until it takes the job, and how long it loads models then.
    in_s: float | None = None
    load_s: float = 0.0
    #: How many jobs begin elsewhere before (`far`).
    before: int = 0


#: Of a GPU that is not healthy.
TAKES_NONE = Next(code="takes_none")


def next_of_each(picture: Picture, forecast: Forecast) -> dict[str, Next]:
    """Return what each GPU of a picture takes next, by its name.

    Parameters:
      forecast: what was made of that picture.
    """
    first: dict[str, Start] = {}
    for start in forecast.starts:
        first.setdefault(start.gpu, start)
    is_cut_short = any(line.goes_on_in_s is not None for line in forecast.lines.values())
    return {
        gpu.name: _taken(first[gpu.name], forecast)
        if gpu.name in first
        else _nothing(gpu, forecast, is_cut_short=is_cut_short)
        for gpu in picture.gpus
    }


def _taken(start: Start, forecast: Forecast) -> Next:
    models = forecast.lines[start.line_id].line.models
    return Next(
        code="no_models" if start.why == "warm" and not models else start.why,
        line_id=start.line_id,
        index=start.index,
        models=models,
        in_s=start.taken_in_s,
        load_s=start.starts_in_s - start.taken_in_s,
    )


def _nothing(gpu: FleetGpu, forecast: Forecast, *, is_cut_short: bool) -> Next:
    if not forecast.lines:
        return Next(code="nothing_waits")
    if gpu.can_run is not None and not gpu.can_run:
        return Next(code="cannot_run")
    able = (line for line_id, line in forecast.lines.items() if gpu.can_run is None or line_id in gpu.can_run)
    if all(line.reason.code in GATED for line in able):
        return Next(code="gated")
    if is_cut_short:
        return Next(code="far", before=len(forecast.starts))
    return Next(code="left_to_others")


def next_sentence(of: Next, files: Mapping[ModelSet, Sequence[str]]) -> str:
    """Return why a GPU takes next what it takes, in plain English.

    Parameters:
      files: of each model set; one that is missing is called the job's models.
    """
    models, load = named(files.get(of.models, ())), about(of.load_s)
    texts: dict[NextCode, str] = {
        "warm": f"It holds {models}.",
        "no_models": "The job needs no models.",
        "unheld": f"No GPU holds {models}; loading takes {load}.",
        "relief": f"The GPUs that hold {models} have too much to do; loading takes {load}.",
        "deadline": "The job would begin too late otherwise"
        + (f"; loading {models} takes {load}." if of.load_s else "."),
        "nothing_waits": "No job waits.",
        "cannot_run": "It can run none of the jobs that wait.",
        "gated": "What waits may not begin now: its tenants or batches run as many jobs as they may, or are paused.",
        "left_to_others": "Other GPUs will have begun the jobs that wait sooner than it could.",
        "far": f"More than {counted(of.before)} begin on other GPUs first.",
        "takes_none": "It takes no jobs in this state.",
    }
    return texts[of.code]
