"""Which hosts share a folder, by the notes that they leave there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from comfy.model_files.sharing import SILENT_S, Sharer, Sharing

ONE, TWO = Sharer(host="one", pool="p", tags=("a", "b")), Sharer(host="two")


def notes(folder: Path) -> list[Path]:
    return sorted((folder / ".comfyline" / "hosts").iterdir())


def test_each_host_knows_the_others(tmp_path: Path) -> None:
    here = Sharing(tmp_path)
    assert here.others("one") == []
    here.note(ONE)
    assert here.others("one") == []
    Sharing(tmp_path).note(TWO)
    assert here.others("one") == [TWO]
    assert here.others("two") == [ONE]
    here.note(ONE)
    changed = Sharer(host="one", pool="q")
    here.note(changed)
    assert here.others("two") == [changed]
    assert len(notes(tmp_path)) == 2


def test_who_was_silent_for_a_day_shares_it_no_more(tmp_path: Path) -> None:
    shared = Sharing(tmp_path)
    shared.note(ONE)
    long_ago_s = time.time() - SILENT_S - 60
    os.utime(notes(tmp_path)[0], (long_ago_s, long_ago_s))
    shared.note(TWO)
    assert shared.others("two") == []
    shared.note(ONE)
    assert shared.others("two") == [ONE], "it is back"


def test_what_cannot_be_read_is_nobody(tmp_path: Path) -> None:
    shared = Sharing(tmp_path)
    shared.note(ONE)
    notes(tmp_path)[0].with_name("x.json").write_text('{"host": 1')
    assert shared.others("one") == []
