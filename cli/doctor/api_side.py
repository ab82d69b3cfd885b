"""The processes that are asked by HTTP: the API, and Flower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import requests

from cli.doctor.findings import Check, Said, ok, unknown, wrong
from cli.local.stack import addresses, first_key
from cli.remote.client import Client
from core.settings import Settings

#: For an answer of Flower, which asks nobody else.
FLOWER_S = 2.0


def api_checks(settings: Settings) -> list[Check]:
    """Return the checks of what is asked by HTTP."""
    base_url = settings.comfy_base_url
    late = f"Something at COMFY_BASE_URL={base_url} takes connections and does not answer."
    flower = "Something at COMFYLINE_FLOWER_PORT takes connections and does not answer."
    return [
        Check(subject="API", look=lambda: _api(settings), if_late=late),
        Check(subject="Flower", look=lambda: _flower(settings), if_late=flower),
    ]


def _api(settings: Settings) -> Iterator[Said]:
    key = settings.comfy_api_key.get_secret_value() or first_key(settings)
    client = Client(settings.comfy_base_url, key)
    said = client.condition()
    if said is None:
        yield unknown(f"None answers at {client.base_url}. COMFY_BASE_URL names one that runs elsewhere.")
        return
    if "loops" not in said:
        yield unknown(f"{client.base_url} says no more without a key: set COMFY_API_KEY.")
        return
    troubles = [*_parts(said), *_loops(said)]
    for trouble in troubles:
        yield wrong(f"{client.base_url}: {trouble}")
    if not troubles:
        yield ok(f"{client.base_url} answers, and what runs in it beside requests is well.")


def _parts(said: Mapping[str, Any]) -> Iterator[str]:
    """What it says of what it stands on: another machine may see what this one does not."""
    for name in ("ledger", "broker", "storage"):
        part = said.get(name)
        if isinstance(part, dict) and part.get("ok") is False:
            yield f"its {name} is not well. {part.get('reason') or ''}".rstrip()


def _loops(said: Mapping[str, Any]) -> Iterator[str]:
    for loop in said["loops"]:
        if not loop.get("alive"):
            yield f"its loop {loop.get('name')} has ended. Restart comfyline api, and report it."
        elif loop.get("failing_since"):
            yield (
                f"its loop {loop.get('name')} has failed since {loop['failing_since']} ({loop.get('last_error')}); the "
                "log of comfyline api has the error."
            )


def _flower(settings: Settings) -> Iterator[Said]:
    url = addresses(settings).flower
    try:
        with requests.Session() as session:
            # A proxy of the environment cannot reach this machine's own loopback.
            session.trust_env = False
            # Whatever it answers, 401 above all, it is there.
            session.get(url, timeout=FLOWER_S, allow_redirects=False).close()
    except requests.RequestException:
        yield unknown(f"None answers at {url}; it may run on another machine.")
        return
    yield ok(f"Answers at {url}.")
