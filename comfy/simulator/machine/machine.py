"""What the parts of one simulated server share: folders, GPU, sockets, faults, the interrupt flag, the log."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import os
import sys
import threading
from pathlib import Path

from comfy.simulator.machine import model_list as catalogue
from comfy.simulator.machine.faults import Faults
from comfy.simulator.machine.hub import Hub
from comfy.simulator.machine.options import Options
from comfy.simulator.machine.paths import Paths
from comfy.simulator.machine.vram import SimulatedGpu

#: ComfyUI keeps this many log entries for `/internal/logs`.
_LOG_ENTRIES = 300


class Interrupted(RuntimeError):
    """Somebody asked for the running prompt to stop."""


class Interrupt:
    """The one flag that stops the running prompt; seen only where a node looks."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask for the running prompt to stop. Lost if nothing is running."""
        self._event.set()

    def clear(self) -> None:
        """Forget an old request; done at the start of each prompt."""
        self._event.clear()

    def check(self) -> None:
        """Raise Interrupted, once, if a stop was asked for."""
        if self._event.is_set():
            self._event.clear()
            raise Interrupted

    def wait(self, seconds: float) -> None:
        """Let time pass, and raise Interrupted as soon as a stop is asked for."""
        if self._event.wait(seconds):
            self.check()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One simulated server without its HTTP side."""

    options: Options
    paths: Paths
    gpu: SimulatedGpu
    hub: Hub
    faults: Faults
    interrupt: Interrupt = dataclasses.field(default_factory=Interrupt)
    log_entries: collections.deque[dict[str, str]] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=_LOG_ENTRIES)
    )

    def names(self, folder: str) -> list[str]:
        """Files a combo offers: model files of a folder such as `checkpoints`, or `input` for pictures.

        `input/.pdf` are files of that ending, `input/folders` folders, `input/3d` all files below that folder.
        """
        if folder == "input":
            return self.paths.input_images()
        if folder.startswith("input/"):
            return self.paths.input_names(folder.partition("/")[2])
        extra = [name for kind, name in self.options.extra_models if kind == folder]
        return sorted({*catalogue.names(folder), *extra, *self._found(folder)})

    def model_size_bytes(self, folder: str, name: str) -> int:
        """How large a model file is: as told on the command line, as it lies there, or as published."""
        told = self.options.extra_models.get((folder, name))
        if told is not None:
            return told
        path = self.model_path(folder, name)
        return catalogue.size_bytes(folder, name) if path is None else path.stat().st_size

    def model_path(self, folder: str, name: str) -> Path | None:
        """Where a model file lies; None for those that are only claimed."""
        paths = (root / name for root in self._roots(folder))
        return next((path for path in paths if path.is_file()), None)

    def model_folder(self, folder: str) -> Path:
        """Where ComfyUI would look for the model files of one kind; it need not exist."""
        return (self.options.models_dir or self.options.user_dir.parent / "models") / folder

    def _found(self, folder: str) -> list[str]:
        """Files that lie in a model folder at this moment."""
        return [
            path.relative_to(root).as_posix()
            for root in self._roots(folder)
            for path in root.rglob("*")
            # Those that some pack may list; not what is beside them.
            if path.suffix.lower() in (*catalogue.SUFFIXES, ".gguf") and path.is_file()
        ]

    def _roots(self, folder: str) -> list[Path]:
        """The folders with model files of one kind that are told of; one that is not there holds nothing."""
        own = [] if self.options.models_dir is None else [self.options.models_dir / folder]
        return [*own, *(path for kind, path in self.options.extra_paths if kind == folder)]

    def log(self, line: str) -> None:
        """Print a line and keep it for `/internal/logs`."""
        # The time of its machine, without saying of which zone.
        entry = {"t": datetime.datetime.now().isoformat(), "m": line + "\n"}
        self.log_entries.append(entry)
        # Whoever started this process may be gone, and its pipe with it, and what a node raises may be no text; prompts
        # go on running all the same.
        with contextlib.suppress(OSError, UnicodeEncodeError):
            sys.stdout.write(entry["m"])
            sys.stdout.flush()
        self.hub.publish_log(entry)

    def end_process(self, code: int) -> None:
        """End the process at once, as a crash does: nothing is cleaned up."""
        self.log(f"SIMULATED fault: the process exits with status {code}")
        os._exit(code)


def build_machine(options: Options) -> Machine:
    """Make the folders and the parts."""
    paths = Paths(input_dir=options.input_dir, output_dir=options.output_dir, temp_dir=options.temp_dir)
    paths.prepare()
    faults = Faults()
    gpu = SimulatedGpu(room=options.room, costs=options.load_costs, speed=options.speed)
    return Machine(options=options, paths=paths, gpu=gpu, hub=Hub(faults), faults=faults)
