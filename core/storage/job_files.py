"""What may be an id, and where a job's files lie: one layout for storage and for the folders of every instance.

<outputs>/<job id>/<name>            an output, by its key `<job id>/<name>`
<instance>/output/<job id>/...       what the job's nodes save, until it is in storage
<instance>/input/<job id>/...        its input files, for loaders that look into folders
<instance>/input/fleet-<job id>-...  its input files, for those that list one folder
"""

from __future__ import annotations

import re
from pathlib import Path

#: Directories below an instance's own in which it keeps files of prompts.
RUN_FOLDERS = ("output", "input", "temp")

#: The input of a node that says where its files go and what their names begin with.
PREFIX = "filename_prefix"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_JOB_ID = re.compile(_UUID)
#: In front of the names of input files that lie beside those of other jobs.
_BESIDE = "fleet-"
_LEADS_TO_A_JOB = re.compile(rf"(?:^|[\\/])(?:{_UUID}(?:[\\/]|$)|{_BESIDE}{_UUID}-)", re.IGNORECASE)
_NAMES_A_JOB = re.compile(rf"(?:^|[\\/])(?:{_BESIDE})?({_UUID})[-\\/]", re.IGNORECASE)


def is_id(text: str) -> bool:
    """Return whether a text may be the id of anything: databases, file systems and URLs take it as it is."""
    return text not in (".", "..") and _ID.fullmatch(text) is not None


def is_job_id(text: str) -> bool:
    """Return whether a text looks like an id that we gave to a job."""
    return _JOB_ID.fullmatch(text) is not None


def job_path(job_id: str, *parts: str) -> str:
    """Return a path below a job's folder, `<job id>/<part>/<part>`: a storage key, or a name for ComfyUI."""
    return "/".join((job_id, *parts))


def job_folder(root: Path, job_id: str) -> Path:
    """Return a job's folder below a root. Raises ValueError: the id cannot be the name of a folder; ours always can."""
    if not is_id(job_id):
        raise ValueError(f"not usable as a folder name: {job_id!r}")
    return root / job_id


def is_prefix(input_name: str) -> bool:
    """Return whether an input of a node, plain or of a group, says where the files go that the node saves."""
    return input_name == PREFIX or input_name.endswith(f".{PREFIX}")


def owner_of(path: str) -> str:
    """Return the first part of a path, which is the job's id in a storage key of an output."""
    return path.partition("/")[0]


def staged_in_folder(job_id: str, name: str) -> str:
    """Return how an input file of a job is called that lies in the job's own folder of the input folder."""
    return job_path(job_id, name)


def staged_beside(job_id: str, name: str) -> str:
    """Return how an input file of a job is called that lies beside those of other jobs."""
    return f"{_BESIDE}{job_id}-{name}"


def leads_to_a_job(path: str) -> bool:
    """Return whether a path leads into the folder of a job, or to an input file that lies beside others."""
    return _LEADS_TO_A_JOB.search(path) is not None


def job_named_in(path: str) -> str | None:
    """Return the id of the job whose files a path leads to, in small letters; None if there is none."""
    found = _NAMES_A_JOB.search(path)
    return found[1].lower() if found else None
