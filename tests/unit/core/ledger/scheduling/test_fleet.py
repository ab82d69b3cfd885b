"""GPUs as a forecast looks at them: what they hold, push out, and can run."""

from __future__ import annotations

from core.ledger.model_sets import load_subject, model_set_of
from core.ledger.scheduling.fleet import FleetView
from core.ledger.scheduling.learned import USUAL_LOAD_S, Costs
from core.ledger.scheduling.lines import LineKind
from core.ledger.scheduling.picture import GpuRow
from core.ledger.scheduling.reach import Reach
from core.records.requirements import Requirements

GB = 1_000_000_000
SDXL = LineKind(priority=0, files=("sdxl",))
WITH_LORA = LineKind(priority=0, files=("lora", "sdxl"))
FLUX = LineKind(priority=0, files=("flux",))
PINNED = LineKind(priority=0, files=("sdxl",), catalogues="a")
LARGE = LineKind(priority=0, requires=Requirements(vram_gb=40))
COSTS = Costs({load_subject(model_set_of(["sdxl"])): {"L4": 12.0}})


def view(*waiting: LineKind, known: tuple[LineKind, ...] = ()) -> FleetView:
    """Lines with the ids 0, 1, ..."""
    lines = dict(enumerate((*waiting, *known)))
    return FleetView(dict(enumerate(waiting)), lines.values(), Reach(lines), COSTS)


def row(*held: str, memory_gb: int = 14, **fields: object) -> GpuRow:
    values = {"name": "gpu0@here", "device": "L4", "memory_bytes": memory_gb * GB}
    return GpuRow(**{**values, "held": [(name, 6 * GB) for name in held], **fields})  # type: ignore[arg-type]


def test_a_set_is_held_if_all_of_its_files_are() -> None:
    fleet = view(SDXL, WITH_LORA, FLUX)
    assert fleet.gpu(row("sdxl"), left_s=None).gpu.holds == {SDXL.models}
    assert fleet.gpu(row("sdxl", "lora"), left_s=None).gpu.holds == {SDXL.models, WITH_LORA.models}
    assert fleet.gpu(row(), left_s=None).gpu.holds == set()


def test_the_most_recently_used_set_comes_first_and_the_last_ones_are_at_risk() -> None:
    gpu = view(SDXL, FLUX).gpu(row("flux", "sdxl"), left_s=None)
    assert gpu.recent == (FLUX.models, SDXL.models)
    assert gpu.gpu.at_risk == {SDXL.models}
    assert gpu.room == 2


def test_what_is_held_counts_although_nobody_waits_for_it() -> None:
    gpu = view(FLUX, known=(SDXL,)).gpu(row("sdxl", memory_gb=6), left_s=None)
    assert gpu.gpu.holds == gpu.gpu.at_risk == {SDXL.models}
    assert gpu.room == 1


def test_a_line_that_only_some_may_run_has_its_own_name_for_its_models() -> None:
    gpu = view(PINNED, SDXL).gpu(row("sdxl", catalogue="a"), left_s=None)
    assert gpu.gpu.holds == {SDXL.models, PINNED.work}
    assert PINNED.work != SDXL.models
    assert gpu.gpu.load_s[PINNED.work] == gpu.gpu.load_s[SDXL.models] == 12.0


def test_unknown_loads_take_as_long_as_usual() -> None:
    assert view(FLUX).gpu(row(), left_s=None).gpu.load_s == {FLUX.models: USUAL_LOAD_S}


def test_those_that_can_run_the_same_share_one_set_and_all_lines_are_none() -> None:
    fleet = view(SDXL, LARGE, PINNED)
    small = [fleet.gpu(row(vram_bytes=24 * GB, name=name), left_s=None) for name in ("a", "b")]
    assert small[0].can_run == frozenset({0})
    assert small[0].can_run is small[1].can_run
    assert fleet.gpu(row(vram_bytes=80 * GB, catalogue="a"), left_s=None).can_run is None


def test_one_at_work_is_free_once_it_has_done_what_it_claimed() -> None:
    fleet = view(SDXL)
    busy, idle = fleet.gpu(row("sdxl"), left_s=4.0), fleet.gpu(row("sdxl"), left_s=None)
    assert (busy.busy, busy.gpu.free_s) == (True, 4.0)
    assert (idle.busy, idle.gpu.free_s) == (False, 0.0)
    assert busy.gpu.holds == idle.gpu.holds
    # A forecast asks one of those that are alike, and knows them by this.
    assert busy.gpu.load_s is idle.gpu.load_s
