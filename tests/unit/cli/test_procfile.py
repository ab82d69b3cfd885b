"""The Procfile and the command line name the same processes."""

from __future__ import annotations

import click
import pytest

from cli.main import COMMANDS, comfyline
from tests.paths import ROOT

PROCFILE = ROOT / "Procfile"


def _lines() -> dict[str, list[str]]:
    lines = [line.partition(":") for line in PROCFILE.read_text().splitlines() if line.strip()]
    return {name.strip(): command.split() for name, _, command in lines}


def test_runs_every_process_of_the_stack() -> None:
    assert set(_lines()) == {"broker", "api", "gpu", "io", "beat", "flower"}


@pytest.mark.parametrize(("name", "command"), _lines().items())
def test_each_line_is_a_command_that_takes_no_argument(name: str, command: list[str]) -> None:
    assert command == ["comfyline", name]
    found = comfyline.get_command(click.Context(comfyline), name)
    assert found is not None
    assert not [parameter for parameter in found.params if parameter.required]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_can_be_imported(name: str) -> None:
    found = comfyline.get_command(click.Context(comfyline), name)
    assert isinstance(found, click.Command)
    assert found.name == name
    assert found.help
