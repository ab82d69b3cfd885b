"""The settings of scaling: how they are read, and what is said of those that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.errors import ConfigurationError
from core.settings import Settings, load_settings


def test_pools() -> None:
    settings = Settings(autoscale_pools="-=0-20, h100 = 1-, a.b_c=3-3")
    assert settings.scaling_rules.pools == {"-": (0, 20), "h100": (1, None), "a.b_c": (3, 3)}
    assert Settings().scaling_rules.pools == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("h100", "is no pool with its least"),
        ("=1-2", "is no pool with its least"),
        ("-x=1-2", "is no pool with its least"),
        ("a=2-1", "smaller number first"),
        ("a=1-2, a=3-4", "names the pool 'a' twice"),
    ],
)
def test_pools_that_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings(autoscale_pools=text)


@pytest.mark.parametrize(
    "fields",
    [
        {"autoscale_command": "say 'x"},
        {"autoscale_command": "  "},
        {"autoscale_webhook_url": "ftp://x/y"},
        {"autoscale_webhook_url": "scaler"},
        {"autoscale_target_wait_s": 0},
        {"autoscale_idle_s": 5},
    ],
)
def test_others_that_cannot_be_read(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)


def test_a_secret_that_signs_nothing_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_AUTOSCALE_WEBHOOK_SECRET"):
        load_settings(autoscale_webhook_secret="whsec_!")


@pytest.mark.parametrize("fields", [{"autoscale_command": "scale"}, {"autoscale_webhook_url": "http://x/"}])
def test_nobody_is_told_of_nothing(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_AUTOSCALE_POOLS missing: COMFYLINE_AUTOSCALE_"):
        load_settings(**fields)
    assert load_settings(**fields, autoscale_pools="-=0-1").scaling_rules.pools == {"-": (0, 1)}
