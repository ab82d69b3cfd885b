"""Stamps of the moments at which one job passes through the fleet's processes, for `bench.trace`.

Put into processes from outside, by a `sitecustomize` on their path, so that nothing of this is in the product: when one
of the modules below is imported, the functions named there are wrapped. CLOCK_MONOTONIC is one clock for all processes
of a machine.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

#: Environment variable that names the file of stamps.
FILE = "BENCH_STAMPS"

#: By module: what is wrapped there, and what it is called in the table.
POINTS: dict[str, dict[str, str]] = {
    "api.http.auth": {"Guard._check": "request in"},
    "api.service.jobs": {"JobService.submit": "submit, whole"},
    "api.service.job_check": {"JobCheck.accept": "graph judged"},
    "core.ledger.jobs": {"Jobs.submit": "job recorded (commit)", "Jobs.events": "log read for the stream"},
    "core.ledger.scheduling.turns": {"Turns.of": "instance of the turn"},
    "tasks.messaging.publish": {"Publisher._publish": "message published"},
    "tasks.messaging.consumer": {"admit": "message received"},
    "tasks.runner.runner": {"JobRunner.work": "turn used, whole", "JobRunner._post": "prompt made and posted"},
    "core.ledger.claims": {
        "Claims.claim": "claim (commit)",
        "Claims.generated": "generated (commit)",
    },
    "comfy.client.client": {"ComfyClient.post_prompt": "POST /prompt"},
    "comfy.prompts.prompt": {
        "PromptHandle._wait_until_ended": "ComfyUI at work",
        "PromptHandle._final_history": "GET /history",
    },
    "tasks.runner.collect": {"Collector.collect": "files secured"},
    "tasks.runner.recorder": {"Recorder.record": "attempt followed, whole"},
    "tasks.runner.direct_store": {"DirectStore.store": "files stored"},
    "tasks.upload": {"_bring_in": "upload, whole", "store": "files stored"},
    "core.ledger.outputs": {
        "Outputs.pending": "what is to be stored",
        "Outputs.succeed": "succeeded (commit)",
        "Outputs.succeed_at_once": "succeeded (commit)",
    },
    "core.messaging.notices": {
        "NoticeSender.send": "notice handed over",
        "NoticeListener._receive": "notice received",
    },
    "api.service.waiting": {"Hub.look": "job read for the stream"},
}


def stamp(text: str) -> None:
    """Append one line, `<nanoseconds> <process id> <text>`, to the file of stamps.

    Texts are `+ <name>` and `- <name>` for the begin and the end of a call, `= <process id>` for a process's parent.
    """
    os.write(_file(), f"{time.monotonic_ns()} {os.getpid()} {text}\n".encode())


def install() -> None:
    """Have the functions of `POINTS` wrapped in this process and its forks, when their modules are imported."""
    stamp("= 0")
    os.register_at_fork(after_in_child=lambda: stamp(f"= {os.getppid()}"))
    sys.meta_path.insert(0, _Finder())


@functools.cache
def _file() -> int:
    # No setting of the product's.
    return os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # noqa: TID251


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in POINTS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Wrapping(fullname, spec.origin or "")
        return spec


class _Wrapping(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for path, name in POINTS[module.__name__].items():
            owner: Any = module
            *outer, last = path.split(".")
            for part in outer:
                owner = getattr(owner, part, None)
            # A function that another version of the code does not have is left out of the table.
            if owner is not None and hasattr(owner, last):
                setattr(owner, last, _stamped(getattr(owner, last), name))


def _stamped(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def with_stamps(*args: Any, **kwargs: Any) -> Any:
        stamp(f"+ {name}")
        try:
            return call(*args, **kwargs)
        finally:
            stamp(f"- {name}")

    return with_stamps


def write_hook(folder: Path, root: Path) -> str:
    """Write the `sitecustomize` that installs this; returns what PYTHONPATH has to be."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import bench.stamps\n\nbench.stamps.install()\n", encoding="utf-8")
    return f"{folder}:{root}"
