"""`comfyline version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import click


@click.command()
def version() -> None:
    """Print the version."""
    print(f"comfyline {version_of('comfyline')} (Python {platform.python_version()})")
