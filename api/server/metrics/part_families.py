"""The parts beside jobs and GPUs: ledger, broker, storage, webhooks, processes, certificates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from api.server.metrics.samples import Sample, View
from core.ledger.metrics.fleet_state import FleetState
from core.metrics.family import gauge

BUILD: Final = gauge("comfyline_build_info", "The version that answers; always 1.", "version")
UP: Final = gauge("comfyline_up", "Whether ledger, broker and storage answer, as this process sees it.", "part")
LEDGER_PING: Final = gauge("comfyline_ledger_ping_seconds", "What the ledger took for a question that costs nothing.")
BROKER_PING: Final = gauge("comfyline_broker_ping_seconds", "What it took to reach the broker, a moment ago.")
MESSAGES: Final = gauge(
    "comfyline_broker_messages", "Messages at the broker that nobody has taken yet, by their queue.", "queue"
)
RECONCILED: Final = gauge(
    "comfyline_reconciled_seconds_ago", "How long ago the reconciler noted that it runs, which it does each minute."
)
WEBHOOKS_DUE: Final = gauge("comfyline_webhooks_due", "Webhooks that could be sent now; 10,000 at most are counted.")
WEBHOOKS_BEHIND: Final = gauge("comfyline_webhooks_behind_seconds", "How long the first of these has been due.")
KEPT: Final = gauge("comfyline_kept_bytes", "Files of a tenant in storage.", "tenant")
FREE: Final = gauge("comfyline_storage_free_bytes", "Room left in storage, as this process sees it; not of a bucket.")
PROCESSES: Final = gauge("comfyline_processes", "Processes of the API, and io workers, heard of lately.", "role")
CLIENTS: Final = gauge("comfyline_api_waiting_clients", "Clients that wait for a job, or read its events.")
REQUESTS: Final = gauge("comfyline_api_open_requests", "Requests whose answers have not ended.")
CERTIFICATE: Final = gauge(
    "comfyline_certificate_expiry_timestamp_seconds",
    "When a server's certificate ends.",
    "server",
)

FAMILIES = (
    *(BUILD, UP, LEDGER_PING, BROKER_PING, MESSAGES, RECONCILED, WEBHOOKS_DUE, WEBHOOKS_BEHIND, KEPT, FREE),
    *(PROCESSES, CLIENTS, REQUESTS, CERTIFICATE),
)
#: What processes of the API say of themselves, by its name in their reports.
OF_PROCESSES = {"waiting_clients": CLIENTS, "open_requests": REQUESTS}
_VERSION = version("comfyline")


def samples(view: View) -> Iterator[Sample]:
    """Yield them: what this process has seen itself, and what the ledger knows, where it answers."""
    yield Sample(BUILD, (_VERSION,), 1)
    yield Sample(UP, ("ledger",), view.fleet is not None)
    yield from _probed(view)
    if view.fleet is not None:
        yield from _known(view.fleet)


def _probed(view: View) -> Iterator[Sample]:
    probed = view.probed
    for part, is_up in (("broker", probed.broker_up), ("storage", probed.storage_up)):
        if is_up is not None:
            yield Sample(UP, (part,), is_up)
    if probed.broker_ping_s is not None:
        yield Sample(BROKER_PING, (), probed.broker_ping_s)
    for queue, depth in probed.queue_depths.items():
        yield Sample(MESSAGES, (queue,), depth)
    if probed.free_bytes is not None:
        yield Sample(FREE, (), probed.free_bytes)
    for server, ends_at_s in probed.certificates.items():
        yield Sample(CERTIFICATE, (server,), ends_at_s)


def _known(fleet: FleetState) -> Iterator[Sample]:
    yield Sample(LEDGER_PING, (), fleet.ping_s)
    if fleet.reconciled_s_ago is not None:
        yield Sample(RECONCILED, (), fleet.reconciled_s_ago)
    yield Sample(WEBHOOKS_DUE, (), fleet.webhooks_due)
    yield Sample(WEBHOOKS_BEHIND, (), fleet.webhooks_behind_s)
    kept: Counter[str] = Counter()
    # The largest first: those that nothing was counted of yet have names of their own while there is room.
    for tenant, kept_bytes in sorted(fleet.kept_bytes.items(), key=lambda item: (-item[1], item[0])):
        kept[fleet.labels.of("tenant", tenant)] += kept_bytes
    for tenant, kept_bytes in kept.items():
        yield Sample(KEPT, (tenant,), kept_bytes)
    for role, count in Counter(process.role for process in fleet.processes).items():
        yield Sample(PROCESSES, (role,), count)
    for name, family in OF_PROCESSES.items():
        yield Sample(family, (), sum(process.gauges.get(name, 0) for process in fleet.processes))
