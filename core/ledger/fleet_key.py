"""Whether this process has the secret key of its fleet: the ledger has an HMAC made with it, and never the key.

The mark is that of the key that seals: the first of `COMFYLINE_SECRET_KEY`. Whoever has that key somewhere in its ring
opens what others seal. One whose first key is another, in a ring that has the fleet's as well, brings the fleet's next
key: the mark becomes that of the new one. See "Changing the key" in docs/operations.md.
"""

from __future__ import annotations

import hashlib

from core.errors import ConfigurationError
from core.ledger.facts import Facts
from core.ledger.sealing import Sealer

#: The fact that holds the mark.
KEY_MARK = "secret_key"
#: What the mark is made of; any fixed text would do.
_TEXT = hashlib.sha256(b"comfyline: the secret key of this fleet").digest()


class FleetKey:
    """The fleet's secret key, as far as a process that has some keys can tell."""

    def __init__(self, facts: Facts, sealer: Sealer, *, is_set: bool) -> None:
        """Parameters: is_set - the keys are those of the setting, and not the data directory's own."""
        self._facts = facts
        self._sealer = sealer
        self._is_set = is_set

    def settle(self) -> None:
        """Make this process's key the fleet's, if that has none or ours follows it. Called at a process's start.

        Raises:
          ConfigurationError: the fleet has another key.
          LedgerUnavailable: the ledger cannot say which it has.
        """
        known = self._facts.settle(KEY_MARK, self._mark())
        if (problem := self._problem(known)) is not None:
            raise ConfigurationError(problem)
        if not self._sealer.has_sealing_mark(known):
            self.adopt()

    def problem(self) -> str | None:
        """Return what is wrong with this process's key; None if it is the fleet's, or that has none yet."""
        known = self._facts.get(KEY_MARK)
        return None if known is None else self._problem(known)

    def is_chosen(self) -> bool:
        """Return whether the fleet has a key yet: without one, the first process brings it."""
        return self._facts.get(KEY_MARK) is not None

    def adopt(self) -> None:
        """Make this process's key the fleet's, whatever that was. Raises LedgerUnavailable."""
        self._facts.mark(KEY_MARK, self._mark())

    def _mark(self) -> str:
        return self._sealer.mark(_TEXT)

    def _problem(self, known: str) -> str | None:
        problem = key_problem(known, self._sealer, is_set=self._is_set)
        advice = "Set the fleet's key here; it is the same on all machines."
        return problem and f"{problem} {advice} If nobody has it any more: comfyline adopt-key."


def key_problem(mark: str, sealer: Sealer, *, is_set: bool) -> str | None:
    """Return why some keys are not those of the fleet that left a mark, without what to do; None if they are.

    Parameters: is_set - the keys are those of the setting, and not the data directory's own.
    """
    if sealer.is_mark(_TEXT, mark):
        return None
    ours = (
        f"COMFYLINE_SECRET_KEY holds {sealer.names}"
        if is_set
        else f"COMFYLINE_SECRET_KEY is not set, so this machine has a key of its own ({sealer.names})"
    )
    return f"{ours}, and the fleet seals with {mark.partition(':')[0]}: neither would open what the other sealed."
