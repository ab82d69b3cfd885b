"""How many messages wait at the broker, by the kind of their queue: a fleet has one for each GPU and each host."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from core.messaging.queue_depths import queue_depths
from core.settings import Settings
from tasks.messaging.names import GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE, gpu_queue_of, io_queue_of

#: One look asks for so many queues, and the next one for those after them.
AT_ONCE = 100
#: Kinds of queues of which there are many.
OWN_GPU: Final = "gpu.*"
OWN_IO: Final = "io.*"
#: Queues that each fleet has once, and that are asked for at each look.
SHARED: Final = (GPU_QUEUE, IO_QUEUE, MAINTENANCE_QUEUE)


class QueueWatch:
    """What one process has seen of the fleet's queues. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: By queue, as of its last look.
        self._depths: dict[str, int] = {}
        #: The queue before which the next look begins.
        self._next = ""

    def look(self, instances: Collection[str], *, timeout_s: float) -> Mapping[str, int]:
        """Look at some of the queues; returns how many messages wait in those of each kind.

        Parameters: instances - those of the fleet, `gpu0@host`.
        Raises: BrokerUnavailable.
        """
        hosts = {name.partition("@")[2] for name in instances} | {self._settings.host}
        own = dict.fromkeys((io_queue_of(host) for host in hosts), OWN_IO)
        own |= dict.fromkeys(map(gpu_queue_of, instances), OWN_GPU)
        names = sorted(own)
        at = next((place for place, name in enumerate(names) if name >= self._next), 0)
        asked = list(itertools.islice(itertools.cycle(names), at, at + min(AT_ONCE, len(names))))
        self._next = names[(at + len(asked)) % len(names)]
        self._depths |= queue_depths(self._settings, [*SHARED, *asked], timeout_s=timeout_s)
        kinds = {**own, **{name: name for name in SHARED}}
        self._depths = {name: depth for name, depth in self._depths.items() if name in kinds}
        counts: Counter[str] = Counter(dict.fromkeys((*SHARED, OWN_GPU, OWN_IO), 0))
        for name, depth in self._depths.items():
            counts[kinds[name]] += depth
        return counts
