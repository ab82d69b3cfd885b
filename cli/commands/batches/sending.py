"""`comfyline submit --over`: many jobs at once, followed to their end. Run again, it goes on with what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.commands.shared import print_json
from cli.exit_codes import EXIT_CANCELED, EXIT_FAILED, EXIT_OK
from cli.output.batch_progress import BatchProgress, describe_counts
from cli.output.terminal import Screen
from cli.remote.answers import Job, RequestRefused
from cli.remote.batch_client import COMPLETED, Batch, BatchClient
from cli.remote.client import Client
from cli.remote.written_files import file_names, safe_name

#: What a server says to a key that stands for another body.
KEY_REUSE = "idempotency_key_reuse"


def send_batch(
    client: Client,
    body: Mapping[str, Any],
    screen: Screen,
    *,
    key: str,
    is_own: bool,
    folder: Path | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Submit a batch, or find the one that the same arguments made, and follow it; returns the exit status.

    Parameters:
      key: by which it is the same one.
      is_own: the user's own key, under which something else is a mistake.
      folder: where its outputs go, those that are not there yet; None: they stay on the server.
    """
    batches = BatchClient(client)
    batch = _submitted(batches, body, key=key, is_own=is_own)
    screen.line(f"Batch {batch['id']}: {describe_counts(batch)}")
    if wait and batch["status"] != COMPLETED:
        batch = _followed(batches, batch, screen)
    saved = [] if folder is None else save_missing(client, batches, batch["id"], folder, screen)
    _describe_errors(screen, batch)
    if as_json:
        print_json({**batch, "saved": [str(path) for path in saved]})
    return exit_status_of(batch) if wait else EXIT_OK


def _submitted(batches: BatchClient, body: Mapping[str, Any], *, key: str, is_own: bool) -> Batch:
    try:
        return batches.submit(body, key=key)
    except RequestRefused as exc:
        details = exc.envelope["error"].get("details")
        known = details.get("job_id") if isinstance(details, dict) else None
        if is_own or exc.server_code != KEY_REUSE or not isinstance(known, str):
            raise
        # The same files were uploaded again, and so have other ids: it is the same batch all the same.
        return batches.get(known)


def save_missing(client: Client, batches: BatchClient, batch_id: str, folder: Path, screen: Screen) -> list[Path]:
    """Fetch the files of all jobs that succeeded into `<folder>/<job id>`, but for those that are there."""
    saved: list[Path] = []
    for job in batches.jobs(batch_id, status="succeeded"):
        own = folder / safe_name(job["id"])
        for name, output in zip(file_names(job), job.get("outputs") or [], strict=True):
            if not _is_there(own / name, output):
                saved.append(client.fetch(output, own, name))
                screen.line(f"Saved {saved[-1]}")
    return saved


def exit_status_of(batch: Batch) -> int:
    """Return 0 where all jobs succeeded, 1 where one failed, 3 where one was cancelled and none failed."""
    counts = batch["counts"]
    if counts.get("failed") or counts.get("expired"):
        return EXIT_FAILED
    return EXIT_CANCELED if counts.get("canceled") else EXIT_OK


def _followed(batches: BatchClient, batch: Batch, screen: Screen) -> Batch:
    try:
        with BatchProgress(screen) as progress:
            return batches.follow(batch["id"], progress)
    except KeyboardInterrupt:
        screen.line(
            f"\nThe batch goes on. The same command follows it again.   See it: comfyline batches show {batch['id']}"
            f"   Stop it: comfyline batches cancel {batch['id']}"
        )
        raise


def _is_there(path: Path, output: Job) -> bool:
    # A file has its name only when it is whole.
    try:
        return path.stat().st_size == output.get("size_bytes")
    except OSError:
        return False


def _describe_errors(screen: Screen, batch: Batch) -> None:
    for error in batch.get("errors") or []:
        place = f" (node {error['node_id']}, {error['class_type']})" if error.get("node_id") else ""
        screen.line(f"{error['count']} x {error['message']}{place}, such as job {error['job_ids'][0]}", style="red")
