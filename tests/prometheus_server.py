"""A real Prometheus for a test, and `promtool`; without them the test is skipped at home, and fails in CI."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import requests

from comfy.process import launch
from tests.own_servers import OwnServer
from tests.paths import ROOT
from tests.ports import free_port
from tests.services import missing

RULES_DIR = ROOT / "deploy" / "prometheus"
RULES = ("comfyline.recording.yaml", "comfyline.alerts.yaml")


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    found = shutil.which(name)
    if found is None:
        missing(f"there is no {name} (Debian's package prometheus)")
    return found


def promtool(
    *arguments: str, text: bytes | None = None, folder: Path = RULES_DIR
) -> subprocess.CompletedProcess[bytes]:
    """Run promtool to its end."""
    return subprocess.run(
        [program("promtool"), *arguments], cwd=folder, input=text, capture_output=True, timeout=120, check=False
    )


class Series(NamedTuple):
    """One result of a query."""

    labels: dict[str, str]
    value: float


class OwnPrometheus(OwnServer):
    """Scrapes one address every second, by the shipped rules."""

    def __init__(self, folder: Path, target: str) -> None:
        super().__init__()
        self._program = program("prometheus")
        folder.mkdir()
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        rules = "".join(f'  - "{RULES_DIR / name}"\n' for name in RULES)
        (folder / "prometheus.yaml").write_text(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n"
            f"rule_files:\n{rules}"
            f'scrape_configs:\n  - job_name: comfyline\n    static_configs:\n      - targets: ["{target}"]\n'
        )

    def is_answering(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=2).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def query(self, expression: str) -> list[Series]:
        """What an expression gives now; values that are no numbers are left out."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
        assert answer.ok, f"{expression}: {answer.text}"
        results: list[dict[str, Any]] = answer.json()["data"]["result"]
        found = [Series(each["metric"], float(each["value"][1])) for each in results]
        return [series for series in found if math.isfinite(series.value)]

    def _command(self) -> list[str]:
        # Through the launcher, so that the kernel ends it should the test run be killed.
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        options = [f"--config.file={self._folder / 'prometheus.yaml'}", f"--storage.tsdb.path={self._folder / 'data'}"]
        return [*launcher, self._program, *options, f"--web.listen-address=127.0.0.1:{self.port}"]
