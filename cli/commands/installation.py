"""What is installed here, and what is wrong with it or with the fleet: `comfyline doctor` and `comfyline version`."""

from __future__ import annotations

import logging
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version as version_of

import click

from cli.commands.shared import json_option, print_json
from cli.doctor.findings import Finding, Mark
from cli.doctor.rounds import whole_round
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.findings import STYLES, finding_line
from cli.output.terminal import Screen
from core.errors import ConfigurationError
from core.settings import load_settings
from core.startup import private_from_now_on


@click.command()
def version() -> None:
    """Print the version."""
    print(f"comfyline {version_of('comfyline')} (Python {platform.python_version()})")


@click.command()
@json_option
def doctor(*, as_json: bool) -> int:
    """Look at this machine, at what it needs, and at the fleet; say what is wrong and what to change.

    It takes some seconds, and changes nothing: a small file is written to the storage, and removed.

    \b
    Exit status: 0 nothing is wrong; 1 something is.
    """
    # What is found is told; the log of the code that found it would tell it again.
    logging.basicConfig(level=logging.CRITICAL)
    private_from_now_on()
    try:
        # `comfyline -l URL -k KEY` names the API that is asked.
        found = whole_round(load_settings(**(click.get_current_context().obj or {})))
    except ConfigurationError as exc:
        found = [Finding(subject="settings", mark="wrong", text=exc.message)]
    is_well = all(each.mark != "wrong" for each in found)
    if as_json:
        told = [{key: value for key, value in asdict(each).items() if key != "refuses"} for each in found]
        print_json({"ok": is_well, "findings": told})
    else:
        screen = Screen()
        for each in found:
            screen.line(finding_line(each.subject, each.mark, each.text, stream=sys.stdout), style=STYLES[each.mark])
        screen.line(_summary([each.mark for each in found]))
    return EXIT_OK if is_well else EXIT_FAILED


def _summary(marks: list[Mark]) -> str:
    wrong, advice = marks.count("wrong"), marks.count("advice")
    if wrong:
        return f"{wrong} {'is' if wrong == 1 else 'are'} wrong."
    return f"Nothing is wrong{f'; {advice} could be better' if advice else ''}."
