"""Notices files that come to an instance's folders, or go, while it runs, and has its catalogue recorded anew.

ComfyUI lists the files of its folders in `/object_info`: megabytes that take its event loop a second or more. So that
is read only when a few small answers have changed: `/object_info/{class}` of some classes that together show every list
of files. They cost ComfyUI about a millisecond each, and see whatever it sees: folders of packs, of other machines,
of an attached instance.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from comfy.client.client import ComfyClient
from comfy.model_files.cache import ModelCache
from comfy.process.model_paths import unnamed_folders
from comfy.process.spec import InstanceSpec
from core.background import Loop
from core.errors import ComfyUnavailable
from tasks.instance.probe import read_catalogue, read_model_sizes
from workflows.graphs.temporary_files import without_jobs_files

log = logging.getLogger(__name__)

#: Seconds between looks: what is added is seen within 5 s, with what the look itself and the reading take.
LOOK_S = 3.0
#: A look that takes long, on an instance that is busy, is made so much less often: a twentieth of the time at most.
LEISURE = 20.0
#: But not less often than this: one mute moment is soon over.
LONGEST_PAUSE_S = 30.0
#: Classes asked about in one look.
MAX_WITNESSES = 64
#: A list of fewer files may be equal to another folder's by chance, so that each class with such a list is asked.
_MANY = 4
_FILE = re.compile(r".+\.[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")

Record = Callable[[Mapping[str, Any], Mapping[str, int]], None]


@dataclass(frozen=True, kw_only=True)
class _Sight:
    """What an instance offered when it was read whole."""

    base_url: str
    #: What each witness said of its inputs, as a hash.
    witnesses: Mapping[str, str]


class CatalogueWatch:
    """Watches one instance, from a thread of its own."""

    def __init__(self, name: str, *, record: Record, tell: Callable[[], None]) -> None:
        """Parameters:
        record: keeps an `/object_info` that has changed, and the sizes of model files. May raise LedgerUnavailable: it
          is tried again.
        tell: called after a look that `look_again` asked for.
        """
        self._name = name
        self._record = record
        self._tell = tell
        self._sight: _Sight | None = None
        self._asked = threading.Event()
        self._not_before_s = 0.0
        self._loop = Loop("catalogue", self._step, pause_s=LOOK_S)

    def start(self) -> None:
        self._loop.start()

    def end(self) -> None:
        self._loop.end()

    def watch(self, base_url: str, object_info: Mapping[str, Any]) -> None:
        """Watch an instance that is up and offers this catalogue."""
        self._sight = _Sight(base_url=base_url, witnesses=witnesses(object_info))
        self._not_before_s = 0.0

    def forget(self) -> None:
        """Stop watching an instance that is away."""
        self._sight = None

    def look_again(self) -> None:
        """Look now. Does not wait."""
        self._asked.set()
        self._loop.wake()

    def _step(self) -> None:
        is_asked = self._asked.is_set()
        self._asked.clear()
        if self._sight is None or (not is_asked and time.monotonic() < self._not_before_s):
            return
        begun_s = time.monotonic()
        try:
            self._look(self._sight)
        except ComfyUnavailable as exc:
            # Whether it lives is the supervisor's business.
            log.debug("%s: its files were not looked at: %s", self._name, exc)
        pause_s = min(LEISURE * (time.monotonic() - begun_s), LONGEST_PAUSE_S)
        self._not_before_s = time.monotonic() + pause_s
        if is_asked:
            self._tell()

    def _look(self, sight: _Sight) -> None:
        with closing(ComfyClient(sight.base_url, read_timeout_s=10.0)) as client:
            if not _has_changed(client, sight):
                return
            object_info = read_catalogue(client)
            model_sizes = read_model_sizes(client)
        # A start in the meantime has recorded what it offers by itself.
        if self._sight is sight:
            self._record(object_info, model_sizes)
            self._sight = _Sight(base_url=sight.base_url, witnesses=witnesses(object_info))
            log.info("%s: its files have changed, and its catalogue was read again", self._name)


def folders_to_learn(spec: InstanceSpec) -> list[str]:
    """Return the folders of fetched model files of which an instance knows nothing before it is started again.

    Those that hold only what others put there are left out: whoever did may not want his instances to be restarted.

    Raises:
      OSError: the folders cannot be looked at.
    """
    if spec.models_dir is None or spec.kind == "attached":
        return []
    unnamed = unnamed_folders(spec.data_dir, spec.models_dir)
    if not unnamed:
        return []
    return sorted(unnamed.intersection(file.path.partition("/")[0] for file in ModelCache(spec.models_dir).files()))


def witnesses(object_info: Mapping[str, Any]) -> dict[str, str]:
    """Return classes that together show every list of files, ComfyUI's own first, each with a hash of its inputs."""
    chosen: dict[str, str] = {}
    seen: set[str] = set()
    for class_type in sorted(object_info, key=lambda name: (_is_of_pack(object_info[name]), name)):
        keys = set(_lists_of_files(class_type, object_info[class_type]))
        if keys - seen and len(chosen) < MAX_WITNESSES:
            seen |= keys
            chosen[class_type] = _hash(object_info[class_type].get("input"))
    return chosen


def _has_changed(client: ComfyClient, sight: _Sight) -> bool:
    for class_type, before in sight.witnesses.items():
        # A class that fails to describe itself in this moment is missing from the answer.
        now = without_jobs_files(client.object_info(class_type)).get(class_type)
        if isinstance(now, dict) and _hash(now.get("input")) != before:
            return True
    return False


def _lists_of_files(class_type: str, info: Any) -> Iterator[str]:
    """Yield a key for each list of files among a class's inputs; equal ones are of the same folder."""
    declared = info.get("input") if isinstance(info, Mapping) else None
    for category in ("required", "optional"):
        inputs = declared.get(category) if isinstance(declared, Mapping) else None
        for name, spec in (inputs if isinstance(inputs, Mapping) else {}).items():
            options = _options(spec)
            if options is None or not (options == [] or any(map(_is_file, options))):
                continue
            yield _hash(options) if len(options) >= _MANY else f"{class_type}.{name}"


def _options(spec: Any) -> list[Any] | None:
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    if isinstance(spec[0], list):
        return spec[0]
    if spec[0] == "COMBO" and len(spec) > 1 and isinstance(spec[1], Mapping):
        options = spec[1].get("options")
        return options if isinstance(options, list) else None
    return None


def _is_file(option: Any) -> bool:
    return isinstance(option, str) and _FILE.fullmatch(option) is not None


def _is_of_pack(info: Any) -> bool:
    module = info.get("python_module") if isinstance(info, Mapping) else None
    return str(module).startswith("custom_nodes")


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
