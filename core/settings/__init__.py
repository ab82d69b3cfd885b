"""What an operator can set: read once at the start of a process, typed, and passed in from there.

settings       Settings, the model that everything is given
value_types    types of single values, with what each must be (settings)
joint_checks   what settings must be together (sources)
sources        load_settings, process_environment, traces_are_wanted: the only reader of the environment
shown          settings as they may be shown, for the book of acts (cli)
neighbours     whether a fleet is one machine (core.outbound, core.startup)
socket_folder  where the embedded broker's socket lies if the data directory's path is too long
"""

from __future__ import annotations

from core.settings.settings import Settings
from core.settings.sources import load_settings, process_environment, traces_are_wanted

__all__ = ["Settings", "load_settings", "process_environment", "traces_are_wanted"]
