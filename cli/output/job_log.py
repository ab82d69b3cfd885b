"""What ComfyUI printed while a job ran, as it is shown: what is new each time, until nothing follows."""

from __future__ import annotations

import sys
import time

from cli.output.terminal import warn
from cli.output.text_tables import printable
from cli.remote.client import Client
from cli.remote.sse import SseEvent

#: The last lines are written down within a second or two of a job's end.
LAST_LINES_S = 5.0
LOOK_S = 0.5


class JobLog:
    """What of a job was shown already."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self.number = 0
        self._is_complete = False

    def go_on(self) -> None:
        """Show what is new."""
        found = self._client.printed(self._job_id, after=self.number)
        if found is None:
            return
        if found.get("truncated"):
            warn("What came before was not kept.")
        sys.stdout.write(printable(found.get("text") or ""))
        sys.stdout.flush()
        self.number = int(found.get("number") or self.number)
        self._is_complete = bool(found.get("complete"))

    def hear(self, event: SseEvent) -> None:
        """Go on where an event says that there is more: the stream may lose lines, the server keeps them."""
        if event.name == "log" and int(event.data.get("number") or self.number + 1) > self.number:
            self.go_on()

    def finish(self) -> None:
        """Show the last lines of a job that has ended."""
        give_up_s = time.monotonic() + LAST_LINES_S
        self.go_on()
        while not self._is_complete and self.number and time.monotonic() < give_up_s:
            time.sleep(LOOK_S)
            self.go_on()
