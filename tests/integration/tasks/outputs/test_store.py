"""Storing a job's files is killed between any two steps: done again, it finds everything."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from core.records.output import FileSource, OutputFile
from tasks.outputs.store import store
from tests.fleet import ROOT

#: Ends the process just before its n-th change of a file's name or place, as SIGKILL would.
CRASHING = """
import os, pickle, sys
from pathlib import Path
from tasks.outputs.store import store

left = int(sys.argv[1])
events = ("os.rename", "os.remove", "shutil.copyfile")

def crash(event, arguments):
    global left
    if event in events:
        left -= 1
        if left == 0:
            os._exit(9)

root, files = Path(sys.argv[2]), pickle.loads(bytes.fromhex(sys.argv[3]))
if len(sys.argv) > 4:
    # As if the two directories were on different file systems.
    os_rename = os.replace
    def replace(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        os_rename(source, target)
    os.replace = replace
sys.addaudithook(crash)
store(root, files)
"""


@pytest.mark.parametrize("other_disk", [False, True], ids=["same disk", "other disk"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_crash_at_any_step_is_made_good(tmp_path: Path, step: int, other_disk: bool) -> None:
    source, root = tmp_path / "output" / "job", tmp_path / "outputs"
    source.mkdir(parents=True)
    files = []
    for number in range(2):
        (source / f"{number}.png").write_bytes(b"picture %d" % number)
        place = FileSource(root=str(tmp_path / "output"), path=str(source / f"{number}.png"))
        files.append(
            OutputFile(
                id=str(number),
                job_id="job",
                node_id="9",
                name=f"{number}.png",
                kind="image",
                content_type="image/png",
                source=place,
            )
        )
    described = pickle.dumps(files).hex()
    command = [sys.executable, "-c", CRASHING, str(step), str(root), described, *(["x"] if other_disk else [])]
    done = subprocess.run(command, cwd=ROOT, timeout=60, check=False)
    assert done.returncode in (0, 9)

    stored = store(root, files)

    assert [file.path_below(root).read_bytes() for file in stored] == [b"picture 0", b"picture 1"]
    # Twice the same, as a doubled message would have it.
    assert store(root, files) == stored
