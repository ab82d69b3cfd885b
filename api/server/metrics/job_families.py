"""Jobs as they are now: waiting in lines, on GPUs, and being stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from api.server.metrics.samples import Sample, View
from core.ledger.metrics.bounded_labels import NONE
from core.ledger.metrics.fleet_state import FleetState
from core.metrics.family import gauge
from core.records.job import QUEUED, RUNNING

JOBS: Final = gauge(
    "comfyline_jobs", "Jobs that have not ended, by status; on_deck: claimed, behind another.", "status", "tenant"
)
TEMPLATE_JOBS: Final = gauge(
    "comfyline_template_jobs",
    "Jobs on GPUs or being stored, by their template.",
    "status",
    "template",
)
TEMPLATE_WAITING: Final = gauge(
    "comfyline_template_jobs_waiting",
    "Jobs that wait, by their template, as the reconciler counted them last.",
    "template",
)
WAITING: Final = gauge("comfyline_jobs_waiting", "Jobs that wait, by the pool they require.", "pool")
OLDEST: Final = gauge(
    "comfyline_oldest_job_wait_seconds", "How long the oldest of them has waited; 0 where none does.", "pool"
)

FAMILIES = (JOBS, TEMPLATE_JOBS, TEMPLATE_WAITING, WAITING, OLDEST)
#: The pool of jobs that require none.
ANY_POOL = "any"


def samples(view: View) -> Iterator[Sample]:
    """Yield them, where the ledger answers."""
    if view.fleet is None:
        return
    yield from _jobs(view.fleet)
    yield from _waiting(view.fleet)


def _jobs(fleet: FleetState) -> Iterator[Sample]:
    # So that a rule has a number to compare where nothing waits.
    jobs: Counter[tuple[str, str]] = Counter({(QUEUED, tenant): 0 for tenant in fleet.labels.values("tenant")})
    known = {NONE, *fleet.labels.values("template")}
    templates: Counter[tuple[str, str]] = Counter({(RUNNING, template): 0 for template in known})
    # The largest first: those that nothing was counted of yet have names of their own while there is room.
    for waiting in sorted(fleet.waiting, key=lambda each: (-each.count, each.tenant)):
        jobs[QUEUED, fleet.labels.of("tenant", waiting.tenant)] += waiting.count
    for started in sorted(fleet.started, key=lambda each: (-each.count, each.tenant, each.template)):
        jobs[started.status, fleet.labels.of("tenant", started.tenant)] += started.count
        templates[started.status, fleet.labels.of("template", started.template)] += started.count
    for labels, count in jobs.items():
        yield Sample(JOBS, labels, count)
    for labels, count in templates.items():
        yield Sample(TEMPLATE_JOBS, labels, count)
    if fleet.waiting_templates is not None:
        yield from _waiting_templates(fleet, fleet.waiting_templates)


def _waiting_templates(fleet: FleetState, counted: Mapping[str, int]) -> Iterator[Sample]:
    waiting: Counter[str] = Counter(dict.fromkeys(fleet.labels.values("template"), 0))
    for template, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        waiting[fleet.labels.of("template", template)] += count
    # Lines count all jobs that wait, some of them since the templates were counted.
    waiting[NONE] = max(0, sum(each.count for each in fleet.waiting) - sum(counted.values()))
    for name, count in waiting.items():
        yield Sample(TEMPLATE_WAITING, (name,), count)


def _waiting(fleet: FleetState) -> Iterator[Sample]:
    counts: Counter[str] = Counter(dict.fromkeys({ANY_POOL, *(gpu.pool or ANY_POOL for gpu in fleet.gpus)}, 0))
    heads_ms: dict[str, int] = {}
    for waiting in fleet.waiting:
        pool = waiting.pool or ANY_POOL
        counts[pool] += waiting.count
        heads_ms[pool] = min(heads_ms.get(pool, waiting.head_ms), waiting.head_ms)
    for pool, count in counts.items():
        yield Sample(WAITING, (pool,), count)
        yield Sample(OLDEST, (pool,), max(0, fleet.now_ms - heads_ms.get(pool, fleet.now_ms)) / 1000)
