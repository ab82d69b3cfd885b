"""The model files that this machine fetches: whether the sources of the manifest would give them to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.doctor.findings import Check, Said, advice, ok, unknown, wrong
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.upgrade import read_schema
from core.model_files.needs import pinned_to
from core.records.model_file import ModelFile
from core.scheduling.reasons import named
from core.settings import Settings
from tasks.models.fetcher import fetches_models
from tasks.models.trial import try_sources

#: For all sources together, so that the check itself is not late.
TRIAL_S, START_TRIAL_S = 6.0, 3.0
#: So many sources are asked, and so many problems are told of, each in a line.
ASKED, TOLD = 500, 20


def model_checks(settings: Settings, ledger: Ledger, *, is_start: bool = False) -> list[Check]:
    """Return the check of the sources, where this machine has a folder for model files.

    Parameters:
      is_start: ask for what is pinned to this machine alone, and sooner be done.
    """
    if settings.models_dir is None:
        return []
    late = "Something holds up the sources of the manifest: see comfyline models list."
    return [Check(subject="model files", look=lambda: _sources(settings, ledger, is_start=is_start), if_late=late)]


def _sources(settings: Settings, ledger: Ledger, *, is_start: bool) -> Iterator[Said]:
    if not fetches_models(settings):
        yield advice(f"COMFYLINE_MODELS_DIR={settings.models_dir} cannot be written, so nothing is fetched to it.")
        return
    try:
        manifest = [] if read_schema(settings).revision is None else ledger.manifest.all()
    except LedgerUnavailable:
        yield unknown("Which model files there are to fetch, only the database can tell.")
        return
    own = [entry for entry in manifest if pinned_to(entry, pool=settings.pool or None, tags=settings.models_tags)]
    asked = own if is_start else [*own, *(entry for entry in manifest if entry not in own)]
    if asked:
        yield from _tried(settings, ledger, asked[:ASKED], limit_s=START_TRIAL_S if is_start else TRIAL_S)


def _tried(settings: Settings, ledger: Ledger, asked: Sequence[ModelFile], *, limit_s: float) -> Iterator[Said]:
    tried = try_sources(asked, settings, ledger.model_tokens.open, limit_s=limit_s)
    problems = tried.problems
    for entry, problem in problems[:TOLD]:
        yield wrong(f"{entry.path} cannot be fetched: {problem}")
    if len(problems) > TOLD:
        yield wrong(f"{len(problems) - TOLD} more cannot be fetched either.")
    if tried.unsized:
        yield advice(
            f"{named([entry.path for entry in tried.unsized])}: neither source nor manifest says the size, so no room "
            "is made for the file, and how far it is cannot be told: comfyline models add PATH SOURCE --size BYTES."
        )
    if tried.unasked:
        yield unknown(f"{tried.unasked} of {len(asked)} sources were not asked, for want of time.")
    elif not problems and not tried.unsized:
        sources = "The source" if len(asked) == 1 else f"The sources of all {len(asked)} files"
        yield ok(f"{sources} would give what the manifest says, as far as that can be told without fetching it.")
