"""Says which of ComfyUI's behaviours the simulated release has."""

from __future__ import annotations

import dataclasses
import re

#: Older servers mint every prompt id themselves and send no progress_state; nothing here speaks that dialect.
OLDEST = (0, 3, 45)
#: The newest release whose sources the simulator was held to; `newest` on its command line.
NEWEST = "0.38.1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """One ComfyUI release, asked by behaviour rather than by number.

    Up to 0.10.0 the numbers are those of the releases. Later ones are estimated from the month in which
    the change was merged upstream (0.12 was out in February 2026, 0.22 in June, 0.26 in July, 0.33 in August).
    What the newest sources have and nothing dates counts from 0.30 on: `is_current`.
    """

    text: str
    number: tuple[int, ...]

    def since(self, *number: int) -> bool:
        """Whether this release is `number` or newer."""
        return self.number >= number

    @property
    def interrupt_by_id(self) -> bool:
        return self.since(0, 3, 57)

    @property
    def partial_targets(self) -> bool:
        return self.since(0, 3, 48)

    @property
    def history_offset(self) -> bool:
        return self.since(0, 3, 60)

    @property
    def hides_unasked_inputs(self) -> bool:
        """A lazy input has no value until its node asks for it, even if the value is there for other reasons."""
        return self.since(0, 3, 67)

    @property
    def hides_api_keys(self) -> bool:
        return self.since(0, 3, 68)

    @property
    def cached_outputs_need_client(self) -> bool:
        """Cached outputs are absent from the history of prompts that carry no client_id (a bug of those releases)."""
        return self.since(0, 3, 68) and not self.since(0, 28)

    @property
    def create_time(self) -> bool:
        return self.since(0, 3, 69)

    @property
    def preview_method_per_prompt(self) -> bool:
        return self.since(0, 5, 0)

    @property
    def jobs_api(self) -> bool:
        return self.since(0, 6, 0)

    @property
    def cancelled_status(self) -> bool:
        return self.since(0, 9, 0)

    @property
    def throttled_progress(self) -> bool:
        return self.since(0, 9, 2)

    @property
    def names_platform(self) -> bool:
        """`/system_stats` says `linux` rather than `posix`, and `/features` names the manager extension."""
        return self.since(0, 10, 0)

    @property
    def replaces_nodes(self) -> bool:
        """Registered classes are put in the place of those that are gone before a graph is checked (#12014)."""
        return self.since(0, 14)

    @property
    def missing_node_type(self) -> bool:
        return self.since(0, 15)

    @property
    def dynamic_vram(self) -> bool:
        """DynamicVRAM is on by default: what is unloaded on request loses the process's copy in RAM as well."""
        return self.since(0, 17)

    @property
    def refuses_cross_site(self) -> bool:
        return self.since(0, 18)

    @property
    def describes_nodes_fully(self) -> bool:
        """`/object_info` says of each class whether it takes lists and shows what it has in between."""
        return self.since(0, 19)

    @property
    def ram_cache_default(self) -> bool:
        return self.since(0, 22)

    @property
    def drops_idle_results(self) -> bool:
        """The RAM cache keeps results of earlier prompts only while very much RAM is free (upstream #14089)."""
        return self.since(0, 22)

    @property
    def strict_prompt_ids(self) -> bool:
        return self.since(0, 25)

    @property
    def cancel_route(self) -> bool:
        return self.since(0, 25)

    @property
    def safe_views(self) -> bool:
        return self.since(0, 28)

    @property
    def is_current(self) -> bool:
        """Cycles are named, all GPUs of the process are listed, jobs count what can be shown."""
        return self.since(0, 30)

    @property
    def assets_flag(self) -> bool:
        return self.since(0, 33)


def parse_release(text: str) -> Release:
    """Read `0.10.0`, `v0.3.64` or `newest`; raises ValueError for what is no release, or one too old to imitate."""
    text = NEWEST if text.strip() == "newest" else text
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?\S*", text.strip())
    if match is None:
        raise ValueError(f"not a ComfyUI release: {text!r}")
    number = tuple(int(part or 0) for part in match.groups())
    if number < OLDEST:
        raise ValueError(f"ComfyUI {text} is older than 0.3.45, the oldest that can be imitated")
    return Release(text=text.strip().lstrip("v"), number=number)
