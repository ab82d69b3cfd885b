"""Texts that nodes made, which are files here, read again for answers that hold them."""

from __future__ import annotations

import logging

from api.contracts.comfyui.entries import ReadText
from api.http.files import open_output
from core.errors import OutputUnavailable
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import output_storage

log = logging.getLogger(__name__)


class StoredTexts:
    """The texts in the fleet's storage."""

    def __init__(self, settings: Settings) -> None:
        self._storage = output_storage(settings)

    def reader(self) -> ReadText:
        """Return what reads the text of an output; None of one that is not to be had now."""
        return self._read

    def _read(self, output: Output) -> str | None:
        try:
            with open_output(output, self._storage) as file:
                return bytes(file.read()).decode("utf-8", "replace")
        except (OutputUnavailable, OSError) as exc:
            log.info("the text %s of job %s is left out: %s", output.name, output.job_id, exc)
            return None
