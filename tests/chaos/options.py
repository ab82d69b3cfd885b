"""What a chaos run may be told, by variables of the environment.

COMFYLINE_TEST_CHAOS_SEED      a number; decides the jobs and the strikes   (the short run: 1; the long ones: drawn)
COMFYLINE_TEST_CHAOS_JOBS      jobs of a long run                           (2000)
COMFYLINE_TEST_CHAOS_KILLS     strikes of a long run                        (200)
COMFYLINE_TEST_CHAOS_MINUTES   after which a long run strikes no more and accepts no more, and is checked   (20)
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

PREFIX = "COMFYLINE_TEST_CHAOS_"
#: For the start, the settling and the checks of a run.
OVERHEAD_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long, how hard, and with which seed."""

    seed: int
    jobs: int
    kills: int
    limit_s: float


def short_options() -> Options:
    """The run that is part of every test run."""
    return Options(seed=int(os.environ.get(f"{PREFIX}SEED", "1")), jobs=40, kills=8, limit_s=60.0)


def long_options() -> Options:
    """A run of `make chaos`."""
    drawn = str(random.SystemRandom().randrange(1_000_000))
    return Options(
        seed=int(os.environ.get(f"{PREFIX}SEED", drawn)),
        jobs=int(os.environ.get(f"{PREFIX}JOBS", "2000")),
        kills=int(os.environ.get(f"{PREFIX}KILLS", "200")),
        limit_s=60.0 * float(os.environ.get(f"{PREFIX}MINUTES", "20")),
    )
