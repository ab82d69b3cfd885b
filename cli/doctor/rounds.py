"""Which checks are made, and in which order they are told of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import cache

from cli.doctor.api_side import api_checks
from cli.doctor.condition import condition_checks
from cli.doctor.findings import Finding, examine
from cli.doctor.model_sources import model_checks
from cli.doctor.own_gpus import gpu_checks, running_checks
from cli.doctor.own_settings import name_check, settings_checks
from cli.doctor.servers import look_only, server_checks
from comfy.process.discovery import GpuSurvey, survey_gpus
from comfy.process.spec import InstanceSpec
from core.errors import LedgerUnavailable
from core.settings import Settings
from tasks.instance.plan import plan_instances

#: How long a start waits for checks. What is slow is told of, and waited for by those who need it.
START_LIMIT_S = 5.0
DATABASE = "database"


def host_round(settings: Settings, specs: Sequence[InstanceSpec]) -> list[Finding]:
    """Make the checks of a GPU host before its workers are started, whose instances are these."""
    # The driver was asked for them already, where it matters.
    checks = gpu_checks(settings, lambda: specs, GpuSurvey, asks_for_all=False)
    with closing(look_only(settings)) as ledger:
        servers = server_checks(settings, ledger, with_broker=not settings.has_embedded_broker)
        models = model_checks(settings, ledger, is_start=True)
        return examine([*servers, *checks, *models], limit_s=START_LIMIT_S)


def whole_round(settings: Settings) -> list[Finding]:
    """Make every check: of this machine, of what all machines share, and of the fleet that runs."""
    survey = cache(survey_gpus)

    def plan() -> list[InstanceSpec]:
        return plan_instances(settings, survey=survey)

    with closing(look_only(settings)) as ledger:
        found = examine(
            [
                *settings_checks(settings),
                *server_checks(settings, ledger),
                *gpu_checks(settings, plan, survey, asks_for_all=True),
                *model_checks(settings, ledger),
                *api_checks(settings),
            ]
        )
        if not any(each.subject == DATABASE and each.mark == "ok" for each in found):
            text = "GPUs, jobs, webhooks and workers were not looked at: the database has to answer first."
            return [*found, Finding(subject="fleet", mark="unknown", text=text)]
        checks = [name_check(settings, ledger), *condition_checks(settings, ledger)]
        try:
            checks += running_checks(settings, ledger)
        except LedgerUnavailable as exc:
            found.append(Finding(subject=DATABASE, mark="wrong", text=exc.message))
        return found + examine(checks)
