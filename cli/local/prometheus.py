"""A Prometheus beside `comfyline up`, where one is installed: it scrapes this fleet, and goes by the shipped rules."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.local.processes import ProcessSpec
from comfy.process.ports import is_free
from comfy.process.spec import LOOPBACK, REPOSITORY_ROOT
from core.settings import Settings, process_environment

NAME = "prometheus"
#: A fleet on one machine is looked at from near.
SCRAPE_S = 5
RETENTION = "15d"
RULES_DIR = REPOSITORY_ROOT / "deploy" / "prometheus"
RULES = ("comfyline.recording.yaml", "comfyline.alerts.yaml")


@dataclass(frozen=True, kw_only=True)
class LocalPrometheus:
    """One to run."""

    url: str
    spec: ProcessSpec
    #: What the API has to be told.
    overrides: Mapping[str, str]


def find_prometheus(
    settings: Settings, *, log: Path, report: Callable[[str], None], free_port: Callable[[], int]
) -> LocalPrometheus | None:
    """Return the Prometheus of this stack; None where none is installed or wanted.

    Parameters:
      free_port: gives a port for metrics where the settings have none.
    """
    program = shutil.which(NAME)
    port = settings.prometheus_port
    if program is None or not port:
        return None
    if not is_free(port):
        report(
            f"Prometheus is not started, for port {port} is taken; COMFYLINE_PROMETHEUS_PORT names another one, or 0."
        )
        return None
    metrics_port = settings.metrics_port or free_port()
    host = settings.metrics_host if settings.metrics_host not in ("0.0.0.0", "::") else LOOPBACK
    folder = settings.data_dir / NAME
    folder.mkdir(mode=0o700, exist_ok=True)
    config = folder / "prometheus.yaml"
    config.write_text(_config(f"{host}:{metrics_port}"), encoding="utf-8")
    command = (
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={LOOPBACK}:{port}",
        "--log.level=warn",
    )
    # It needs nothing of our settings, and no secret of theirs.
    environment = {name: value for name, value in process_environment().items() if name in ("PATH", "HOME", "TZ")}
    return LocalPrometheus(
        url=f"http://{LOOPBACK}:{port}",
        spec=ProcessSpec(name=NAME, command=command, environment=environment, cwd=folder, log=log),
        overrides={"COMFYLINE_METRICS_PORT": str(metrics_port)},
    )


def _config(target: str) -> str:
    rules = "".join(f'  - "{RULES_DIR / name}"\n' for name in RULES if (RULES_DIR / name).is_file())
    return (
        f"global:\n  scrape_interval: {SCRAPE_S}s\n  evaluation_interval: {SCRAPE_S}s\n"
        f"{'rule_files:' if rules else ''}\n{rules}"
        "scrape_configs:\n  - job_name: comfyline\n    static_configs:\n"
        f'      - targets: ["{target}"]\n'
    )
