"""A job's input files, brought from storage to the instance that is about to run it."""

from __future__ import annotations

import shutil

from comfy.client import ComfyClient
from comfy.inputs import stage
from core.errors import InputGone
from core.ledger.claims import Claim
from core.ledger.instances import InstanceRecord
from core.settings import Settings
from core.storage import Storage


def stage_inputs(claim: Claim, instance: InstanceRecord, client: ComfyClient, settings: Settings) -> None:
    """Put every input file of a claimed job where its graph names it; doing it again does no harm.

    Raises:
      InputGone: storage has it no more.
      PromptRejected: an attached instance refuses it.
      ComfyUnavailable: an attached instance does not answer.
    """
    if not claim.inputs:
        return
    storage = Storage(settings.inputs_dir)
    try:
        if instance.kind == "attached":
            stage(client, {file["name"]: storage.path(file["key"]) for file in claim.inputs})
        else:
            folder = settings.gpu_dir(instance.gpu_name) / "input"
            for file in claim.inputs:
                storage.copy(file["key"], folder / file["name"])
    except FileNotFoundError as exc:
        raise InputGone("An input file of this job is no longer in storage.") from exc


def remove_staged(claim: Claim, instance: InstanceRecord, settings: Settings) -> None:
    """The job has run: its input files leave the instance. What was uploaded to an attached one stays there."""
    if instance.kind != "attached":
        shutil.rmtree(settings.gpu_dir(instance.gpu_name) / "input" / claim.job_id, ignore_errors=True)
