"""Goes on with the rollout that runs, if one does."""

from __future__ import annotations

import logging

from tasks.runtime import Runtime

log = logging.getLogger(__name__)


def advance_rollout(runtime: Runtime) -> None:
    """Take the next step of it; the ledger keeps all there is to know, so any io worker may."""
    rollout = runtime.ledger.rollouts.advance()
    if rollout is not None and rollout.state != "running":
        log.log(
            logging.INFO if rollout.state == "done" else logging.WARNING,
            "the rollout %s is %s. %s", rollout.id, rollout.state, rollout.reason or "",
        )  # fmt: skip
    runtime.ledger.processes.forget_silent()
