"""Files of a dry run: looked at as those of a submission are, and none of them kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from api.http.caller import caller
from api.service.input_files import Intake
from api.service.kept_refusals import KeptRefusals
from core.ledger.input_files import InputFile
from core.records.job import InputRef
from core.records.output import Output
from workflows.graphs.references import Reference


class TrialFiles(Intake):
    """The intake of one dry run, which writes neither into the storage nor into the ledger."""

    def __init__(self, intake: Intake) -> None:
        """Parameters: intake - the one that a submission would use."""
        super().__init__(*intake.parts)
        #: What came with the request, by id, and the files of references.
        self._received: dict[str, InputFile] = {}
        self._looked_at: dict[tuple[object, ...], InputFile] = {}
        self._bytes = 0

    def try_each(self, references: Sequence[Reference], job_id: str, refusals: KeptRefusals) -> list[InputRef]:
        """Look at the file of each reference; returns those that a job could load.

        Assets that are not there have been refused before.
        """
        found: list[InputRef] = []
        for reference in references:
            if reference.asset is None or self.referred_to(reference.asset) is not None:
                with refusals:
                    found += self.bring([reference], job_id)
        return found

    def known_asset(self, asset: str) -> InputFile | Output | None:
        """Do as an intake does; what came in a form with this request is there as well."""
        return self._received.get(asset) or super().known_asset(asset)

    def _file(self, reference: Reference, job_id: str) -> InputFile:
        # Named in several places, it is looked at once.
        what = (reference.asset, reference.url, reference.data, reference.file, reference.kind)
        if what not in self._looked_at:
            self._looked_at[what] = super()._file(reference, job_id)
        return self._looked_at[what]

    def _record(self, file: InputFile, *, key_id: str | None = None, is_copy: bool = False) -> None:  # noqa: ARG002
        # All of them together have to find room.
        self._bytes += file.size_bytes
        self._room.before_keeping(caller().tenant, self._bytes)
        self._received[file.id] = file

    def _put(self, key: str, draft: Path, *, is_needed: bool) -> None:
        """Leave the draft to its maker, who removes it."""

    def _take_over(self, output: Output, key: str) -> None:  # noqa: ARG002 - it goes nowhere
        self._outputs.open(output.storage_key or "", size_bytes=output.size_bytes).close()

    def _hold(self, file: InputFile) -> None:
        if file.id not in self._received:
            self._storage.open(file.storage_key, size_bytes=file.size_bytes).close()

    def _note_checked(self, file: InputFile, pixels: int) -> None:
        """Note nothing."""
