"""One scrape: how the fleet is, read from the ledger once, and what this process knows besides."""

from __future__ import annotations

from contextlib import suppress

from api.http.cached import CachedValue
from api.http.time_limits import at_most
from api.server.metrics import (
    gpu_families,
    job_families,
    part_families,
    pool_families,
    rollout_families,
    summed_families,
)
from api.server.metrics.probes import Probes
from api.server.metrics.samples import View, write_samples
from api.server.metrics.text_format import Text
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.metrics.fleet_state import FleetState
from core.settings import Settings
from core.storage.marker import StorageMarker

#: Groups of families whose samples are as they are now, in the order in which they are shown.
GROUPS = (part_families, job_families, gpu_families, pool_families, rollout_families)
#: All families there are.
FAMILIES = (*(family for group in GROUPS for family in group.FAMILIES), *summed_families.FAMILIES)
#: The ledger has so long to answer, so that who scrapes hears within a second that it does not.
LEDGER_S = 0.5
#: However many scrape, the ledger is not asked more often than this.
MAX_AGE_S = 1.0


class Scraper:
    """Answers the scrapes of one process."""

    def __init__(self, settings: Settings, ledger: Ledger, marker: StorageMarker) -> None:
        self._ledger = ledger
        self._probes = Probes(settings, marker)
        self._view = CachedValue(self._look, max_age_s=MAX_AGE_S)

    def answer(self) -> bytes:
        """Return the text of a scrape."""
        return text_of(self._view.get())

    def _look(self) -> View:
        fleet = self._fleet()
        return View(fleet=fleet, probed=self._probes.read(None if fleet is None else [gpu.name for gpu in fleet.gpus]))

    def _fleet(self) -> FleetState | None:
        # Not within the slots that requests take at the ledger: whoever looks why all of them wait must not wait.
        with suppress(LedgerUnavailable), at_most(LEDGER_S, LedgerUnavailable("The ledger does not answer.")):
            return self._ledger.fleet_state.read()
        return None


def text_of(view: View) -> bytes:
    """Return the text of all there is to be told. Nothing is kept between scrapes, so there is no registry."""
    text = Text()
    for group in GROUPS:
        write_samples(text, group.FAMILIES, group.samples(view))
    summed_families.write(text, view)
    return text.whole()
