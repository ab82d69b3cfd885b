"""Tokens of model sources, in both databases: sealed, opened by name, and by nobody without the key."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from core.errors import ConfigurationError, NotFound
from core.ledger import Ledger
from core.ledger.models.tokens import ModelTokens
from core.ledger.sealing import Sealer
from core.ledger.upgrade import migrate
from tests.services import make_settings

TOKEN = "hf_0123456789"


def test_a_token_is_opened_by_its_name_until_it_is_forgotten(ledger: Ledger) -> None:
    assert ledger.model_tokens.open("hub") is None
    ledger.model_tokens.put("hub", "old")
    ledger.model_tokens.put("hub", TOKEN)
    ledger.model_tokens.put("shop", "other")
    assert (ledger.model_tokens.open("hub"), ledger.model_tokens.open("shop")) == (TOKEN, "other")
    assert list(ledger.model_tokens.names()) == ["hub", "shop"]
    ledger.model_tokens.remove("hub")
    assert (ledger.model_tokens.open("hub"), list(ledger.model_tokens.names())) == (None, ["shop"])
    with pytest.raises(NotFound, match="no token hub"):
        ledger.model_tokens.remove("hub")


def test_no_file_of_the_ledger_holds_it_and_another_key_does_not_open_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, secret_key=base64.b64encode(b"k" * 32).decode())
    migrate(settings)
    ledger = Ledger(settings)
    ledger.model_tokens.put("hub", TOKEN)
    written = b"".join(path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file())
    assert b"hub" in written
    assert TOKEN.encode() not in written
    with pytest.raises(ConfigurationError, match="COMFYLINE_SECRET_KEY"):
        ModelTokens(ledger.database, Sealer([b"x" * 32])).open("hub")
    ledger.close()


def test_a_row_that_was_moved_does_not_open(ledger: Ledger) -> None:
    ledger.model_tokens.put("hub", TOKEN)
    with ledger.database.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE model_tokens SET name = 'shop'")
    with pytest.raises(ConfigurationError):
        ledger.model_tokens.open("shop")
