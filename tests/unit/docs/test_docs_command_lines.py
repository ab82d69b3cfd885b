"""Command lines that the documents show are those of the program: commands, their own commands, and options."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from cli.main import comfyline
from tests.paths import ROOT

DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
#: The program, options before the command, the command, and what follows up to the end of the code or of the command.
LINE = re.compile(r"\bcomfyline((?: -\w (?:\"[^\"]*\"|\S+))*) ([a-z][a-z-]*)\b([^\n`|;)#]*)")


def command_lines() -> Iterator[tuple[str, str, str]]:
    """`(document, command, what follows)` for each in a block for a shell, or in a span of code."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
        for line in ["\n".join(blocks), *(span.replace("\n", " ") for span in spans)]:
            for _, command, rest in LINE.findall(line):
                yield document.name, command, rest.strip()


def options_of(command: click.Command) -> set[str]:
    known = (option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))
    return {*known, "--help"}


@pytest.mark.parametrize(("document", "name", "rest"), sorted(set(command_lines())))
def test_it_is_one_of_the_programs(document: str, name: str, rest: str) -> None:
    context = click.Context(comfyline)
    command = comfyline.get_command(context, name)
    assert command is not None, f"{document}: comfyline {name}"
    words = rest.split()
    if isinstance(command, click.Group) and words:
        command = command.get_command(context, words[0])
        assert command is not None, f"{document}: comfyline {name} {words[0]}"
    used = set(re.findall(r"(?:^|\s)(--[\w-]+)", rest))
    assert used <= options_of(command), f"{document}: comfyline {name}"


def test_there_are_many_of_them() -> None:
    assert len(set(command_lines())) > 60
