"""What an installed wheel brings along is all that its processes import: the test environment has more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from tests.fleet import ROOT

#: Prints the top-level modules that a process has loaded, once it can talk to a broker.
LISTING = """
import json, sys
import {module}
from kombu import Connection
for url in ("redis://127.0.0.1:1", "amqp://127.0.0.1:1"):
    Connection(url).transport
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_with(name: str) -> set[str]:
    """Every distribution that installing this one brings along."""
    found: set[str] = set()
    pending = [Requirement(name)]
    seen: set[tuple[str, str]] = set()
    while pending:
        wanted = pending.pop()
        found.add(canonical(wanted.name))
        for extra in wanted.extras or {""}:
            if (canonical(wanted.name), extra) in seen:
                continue
            seen.add((canonical(wanted.name), extra))
            try:
                inner = [Requirement(text) for text in requires(wanted.name) or []]
            except PackageNotFoundError:
                continue
            environments = [{"extra": ""}, {"extra": extra}]
            pending += [
                each for each in inner if not each.marker or any(each.marker.evaluate(env) for env in environments)
            ]
    return found


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("cli.local.flower", "cli.commands.up")]


@pytest.mark.parametrize("module", ["cli.commands.services", "api.wsgi", "comfy.simulator.server", *SLOW])
def test_every_import_is_a_dependency(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTING.format(module=module)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    owners = packages_distributions()
    loaded = {canonical(name) for top in json.loads(done.stdout) for name in owners.get(top, [])}

    # Setuptools gets into each process of an editable installation; kombu takes YAML where it finds it, and redis-py
    # OpenTelemetry, of which we bring an extra (`tests/integration/core/test_spans.py` sees that nobody else takes it).
    assert loaded - installed_with("comfyline[otel]") - {"setuptools", "pip", "pyyaml"} == set()
