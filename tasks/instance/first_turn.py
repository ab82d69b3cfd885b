"""The first turn of an instance that takes jobs from now on: the reconciler would publish it up to a tick later."""

from __future__ import annotations

import contextlib

from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.runtime import Runtime


def publish_first_turn(settings: Settings, instance: str) -> None:
    """Publish a turn for an instance, if something waits that it would take. The ledger has to know that it takes jobs.

    Raises: LedgerUnavailable.
    """
    with contextlib.closing(Runtime(settings, make_app(settings, "gpu"))) as runtime:
        for turn in runtime.ledger.turns.missing():
            if turn.instance == instance:
                runtime.publisher.turn_for(turn)
