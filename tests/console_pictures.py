"""Pictures of each page of the console: light, dark and narrow, of a fleet of simulators that has work.

    python -m tests.console_pictures FOLDER

Needs Chromium; about two minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from tests.browser import Page, chromium
from tests.console import see
from tests.fleet import ALL, Fleet, work

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"width": 1280, "height": 800},
    "dark": {"width": 1280, "height": 800, "is_dark": True},
    "narrow": {"width": 390, "height": 844, "is_phone": True},
}
PROMPTS = ("a lighthouse at dusk", "hills in the morning", "a quiet harbour", "the sea in winter")
#: Until a page has read what it shows, and its pictures are there.
SETTLE_S = 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="comfyline-console-") as made:
        root = Path(made)
        with chromium(root / "profile") as browser, Fleet(root, simulated_gpus="2") as fleet:
            fleet.start(*ALL).ready()
            places = _fill(fleet)
            page = browser.open(fleet.base_url)
            page.await_true("document.querySelector('nav')")
            for look, size in LOOKS.items():
                page.look(**size)
                for number, (name, place) in enumerate(places.items(), start=1):
                    print(f"{look}: {name} ({number} of {len(places)})", file=sys.stderr)
                    _take(page, place, folder / f"{name}-{look}.png")
            page.close()
    return 0


def _fill(fleet: Fleet) -> dict[str, str]:
    """Give the fleet work; returns the places of pages by their names."""

    def post(path: str, body: Any) -> Any:
        answer = requests.post(fleet.base_url + path, json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    jobs = [post("/workflows/text2image", {"parameters": {"prompt": words}, "label": "tour"}) for words in PROMPTS]
    over = {"seed": "1..4", "prompt": list(PROMPTS[:2])}
    batch = post("/api/v2/batches", {"template": "text2image", "parameters": {}, "over": over, "label": "seeds"})
    for job in jobs:
        fleet.wait(job["id"], "succeeded", timeout_s=120)
    while requests.get(f"{fleet.base_url}/api/v2/batches/{batch['id']}", timeout=20).json()["status"] != "completed":
        time.sleep(0.5)
    for seed in range(8):
        post("/api/v2/jobs", {"workflow": work(60.0, steps=300, seed=seed), "label": "long"})
    return {
        "fleet": "fleet",
        "jobs": "jobs",
        "job": f"jobs/{jobs[0]['id']}",
        "batches": "batches",
        "batch": f"batches/{batch['id']}",
        "gallery": "gallery",
        "playground": "playground",
        "form": "playground/text2image",
        **{name: name for name in ("webhooks", "models", "usage", "keys", "health")},
    }


def _take(page: Page, place: str, path: Path) -> None:
    see(page, place)
    time.sleep(SETTLE_S)
    page.picture(path)


if __name__ == "__main__":
    sys.exit(main())
