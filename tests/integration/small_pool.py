"""The application with hardly any connections to its ledger, so that a herd waits for each."""

from __future__ import annotations

from flask import Flask

from api.wsgi import build
from core.settings import load_settings


def create() -> Flask:
    """For gunicorn: `tests.integration.small_pool:create()`."""
    return build(load_settings(), pool_size=2)
