"""Commands of the operator: what they are given, what they do not get, and what is told of their ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core.outbound.own_command import run_command

SETTING = "COMFYLINE_X_COMMAND"


def python(tmp_path: Path, text: str) -> str:
    script = tmp_path / "script.py"
    script.write_text(text)
    return f"{sys.executable} {script}"


def test_it_has_its_input_and_variables_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COMFYLINE_SECRET_KEY", "S3_SECRET", "WEBHOOK_SECRET"):
        monkeypatch.setenv(name, "hush")
    text = "import os, sys\n"
    text += "seen = sys.stdin.read() + os.environ['WANTED'] + str('hush' in os.environ.values())\n"
    text += f"open({str(tmp_path / 'said')!r}, 'w').write(seen)"
    command = python(tmp_path, text)
    assert run_command(SETTING, command, limit_s=30, given=b"given ", variables={"WANTED": "this "}) is None
    assert (tmp_path / "said").read_text() == "given this False"


@pytest.mark.parametrize(
    ("text", "limit_s", "told"),
    [
        ("import sys; print('first', file=sys.stderr); sys.exit('last')", 30, "ended with status 1: 'last'."),
        ("import time; time.sleep(60)", 0.2, "had not ended after 0.2 s, and was killed."),
    ],
)
def test_what_goes_wrong_is_told_with_the_setting(tmp_path: Path, text: str, limit_s: float, told: str) -> None:
    assert run_command(SETTING, python(tmp_path, text), limit_s=limit_s) == f"{SETTING} {told}"


def test_one_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    told = run_command(SETTING, str(tmp_path / "none"), limit_s=30)
    assert told == f"{SETTING} could not be run: No such file or directory."
