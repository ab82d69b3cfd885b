"""The sizes of model files, by the catalogue of the instances that told them."""

from __future__ import annotations

from typing import Any

import pytest

from core.ledger import Ledger
from core.ledger import catalogues as catalogues_module
from core.ledger.catalogues import KEPT, ModelSizes, keep_catalogue

INFO: dict[str, Any] = {"A": {"input": {}}}


def sizes_in(ledger: Ledger, digest: str | None, known: ModelSizes | None = None) -> dict[str, int]:
    with ledger.database.read() as connection:
        return dict((known or ModelSizes()).of(connection, digest))


def test_what_an_instance_tells_is_kept(ledger: Ledger) -> None:
    digest = keep_catalogue(ledger.database, INFO, {"a.sft": 7, "ä/b.sft": 2**40})
    assert sizes_in(ledger, digest) == {"a.sft": 7, "ä/b.sft": 2**40}


def test_what_one_does_not_tell_another_may_have_told(ledger: Ledger) -> None:
    digest = keep_catalogue(ledger.database, INFO, {})
    assert sizes_in(ledger, digest) == {}
    assert keep_catalogue(ledger.database, INFO, {"a.sft": 7}) == digest
    assert keep_catalogue(ledger.database, INFO, {}) == digest
    assert sizes_in(ledger, digest) == {"a.sft": 7}


def test_a_file_that_was_replaced_has_its_new_size(ledger: Ledger) -> None:
    digest = keep_catalogue(ledger.database, INFO, {"a.sft": 7})
    keep_catalogue(ledger.database, INFO, {"a.sft": 8})
    assert sizes_in(ledger, digest) == {"a.sft": 8}


def test_nothing_is_known_of_one_that_is_not_there(ledger: Ledger) -> None:
    assert sizes_in(ledger, None) == sizes_in(ledger, "f" * 64) == {}


def test_a_process_asks_again_after_a_while(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ModelSizes()
    digest = keep_catalogue(ledger.database, INFO, {"a.sft": 7})
    sizes_in(ledger, digest, known)
    keep_catalogue(ledger.database, INFO, {"a.sft": 8})
    assert sizes_in(ledger, digest, known) == {"a.sft": 7}
    monkeypatch.setattr(catalogues_module, "KNOWN_S", 0.0)
    assert sizes_in(ledger, digest, known) == {"a.sft": 8}


def test_it_keeps_those_of_some(ledger: Ledger) -> None:
    known = ModelSizes()
    digest = keep_catalogue(ledger.database, INFO, {"a.sft": 7})
    sizes_in(ledger, digest, known)
    for number in range(KEPT):
        sizes_in(ledger, str(number), known)
    keep_catalogue(ledger.database, INFO, {"a.sft": 8})
    assert sizes_in(ledger, digest, known) == {"a.sft": 8}


def test_the_inputs_of_a_class_keep_their_order(ledger: Ledger) -> None:
    inputs = {"required": {"width": ["INT", {}], "batch": ["INT", {}]}}
    classes = {"B": {"input": inputs}, "A": {"input": inputs}}
    digest = keep_catalogue(ledger.database, classes, {})

    assert list(ledger.instances.catalogue(digest)["B"]["input"]["required"]) == ["width", "batch"]
    # In which order packs are loaded is chance.
    assert keep_catalogue(ledger.database, dict(reversed(classes.items())), {}) == digest
