"""A process whose secret key is not the fleet's is told so, a new key in front of the old one is taken over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.facts import Facts
from core.ledger.fleet_key import KEY_MARK, FleetKey
from core.ledger.sealing import Sealer, key_id

OLD, NEW, OTHER = bytes(32), bytes(range(32)), b"o" * 32
Holder = Callable[..., FleetKey]


@pytest.fixture
def facts(ledger: Ledger) -> Facts:
    return ledger.facts


@pytest.fixture
def having(facts: Facts) -> Holder:
    """A process that has these keys."""
    return lambda *keys, is_set=True: FleetKey(facts, Sealer(keys), is_set=is_set)


def test_the_first_process_brings_the_key_and_others_need_it(having: Holder, facts: Facts) -> None:
    assert not having(OLD).is_chosen()
    assert having(OTHER).problem() is None, "nobody has chosen yet"
    having(OLD).settle()
    having(OLD).settle()

    assert having(OLD).is_chosen()
    with pytest.raises(ConfigurationError, match="comfyline adopt-key") as refusal:
        having(OTHER).settle()
    assert refusal.value.message.startswith(
        f"COMFYLINE_SECRET_KEY holds {key_id(OTHER).hex()}, and the fleet seals with {key_id(OLD).hex()}: "
    )
    assert having(OTHER).problem() == refusal.value.message
    assert having(OLD).problem() is None


def test_a_key_that_a_machine_made_by_itself_is_told_as_one(having: Holder) -> None:
    having(OLD).settle()

    assert str(having(OTHER, is_set=False).problem()).startswith(
        f"COMFYLINE_SECRET_KEY is not set, so this machine has a key of its own ({key_id(OTHER).hex()}), and the fleet "
    )


def test_a_new_key_in_front_of_the_old_one_becomes_the_fleets(having: Holder) -> None:
    having(OLD).settle()

    having(NEW, OLD).settle()

    having(NEW).settle()
    having(NEW, OLD).settle()
    with pytest.raises(ConfigurationError):
        having(OLD).settle()
    # A machine that was given both, and seals with the old one still.
    having(OLD, NEW).settle()
    assert having(OLD).problem() is None


def test_a_key_that_nobody_has_any_more_is_replaced(having: Holder) -> None:
    having(OLD).settle()

    having(OTHER).adopt()

    having(OTHER).settle()
    assert having(OLD).problem() is not None


def test_the_ledger_has_no_key(having: Holder, facts: Facts) -> None:
    having(OLD).settle()

    mark = facts.get(KEY_MARK) or ""

    name, _, made = mark.partition(":")
    assert name == key_id(OLD).hex()
    assert len(bytes.fromhex(made)) == 32
    assert OLD.hex() not in mark
    # The mark of one key under the name of another is no mark of that.
    facts.mark(KEY_MARK, f"{key_id(OTHER).hex()}:{made}")
    assert having(OTHER).problem() is not None
