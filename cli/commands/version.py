"""`fleet version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import click


@click.command()
def version() -> None:
    """Print the version."""
    print(f"comfyfleet {version_of('comfyfleet')} (Python {platform.python_version()})")
