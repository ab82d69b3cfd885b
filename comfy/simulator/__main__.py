"""Starts the simulator: `python -m comfy.simulator --port 8188`."""

from __future__ import annotations

import asyncio
import shutil
import sys

from comfy.simulator.machine.options import parse_options
from comfy.simulator.server import serve


def main() -> int:
    """Serve until interrupted. SIGTERM kills at once, as it kills ComfyUI; SIGINT cleans the temp folder."""
    options = parse_options(sys.argv[1:])
    # Threads hand over the interpreter after this long at most; Python's own 5 ms would show up between two prompts.
    sys.setswitchinterval(0.0005)
    try:
        asyncio.run(serve(options))
    except KeyboardInterrupt:
        shutil.rmtree(options.temp_dir, ignore_errors=True)
        return 0
    except (OSError, TypeError, ValueError) as exc:
        sys.stderr.write(f"SIMULATED ComfyUI ends: {type(exc).__name__}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
