"""Scaling over HTTP: how many GPUs each pool wants, and the hosts that it gives back."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flask import Blueprint, Response, request

from api.contracts.autoscale_views import (
    AutoscaleView,
    PoolView,
    ScaleInView,
    fleet_view,
    leaving_view,
    pool_view,
)
from api.contracts.gpus import REACH_S, Ask
from api.http.caller import actor
from api.http.errors import BadParameter, json_response
from api.http.time_limits import at_most, bounded, ledger_time_limit
from api.schema.described import SERVER, Described, Parameter
from api.service.pool_figures import PoolFigures, pool_of
from core.errors import BrokerUnavailable, InstanceUnreachable, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.instance import InstanceRecord
from core.settings import Settings
from tasks.messaging.remote_control import ANSWER_S, DRAIN

#: Hosts that one request gives back at most, and for how long it goes on telling their workers.
MOST_HOSTS = 64
TELLING_S = 20.0
_HOSTS = Parameter(
    name="hosts",
    place="query",
    description="How many hosts are to be given back at most, those that leave already not counted.",
    schema={"type": "integer", "minimum": 0, "maximum": MOST_HOSTS, "default": MOST_HOSTS},
)
_POOL = "A pool is a label, COMFYLINE_POOL of its workers, or - for the GPUs without one."


def autoscale_blueprint(settings: Settings, ledger: Ledger, ask: Ask, figures: PoolFigures) -> Blueprint:
    """Return the routes under /api/v2/autoscale: an extension, for operators and what starts and stops hosts."""
    blueprint = Blueprint("autoscale", __name__, url_prefix="/api/v2/autoscale")

    @blueprint.get("")
    @Described(
        summary="How many GPUs each pool wants",
        tag=SERVER,
        scope="operate",
        answers={200: AutoscaleView},
        errors=(LedgerUnavailable,),
        text="About a second old. GPUs are wanted at once, and given up when they were not needed for "
        "COMFYLINE_AUTOSCALE_IDLE_S.",
    )
    @bounded
    def every() -> Response:
        view: AutoscaleView = fleet_view(figures.fleet(), settings.scaling_rules)
        return json_response(view)

    @blueprint.get("/<pool>")
    @Described(
        summary="How many GPUs one pool wants",
        tag=SERVER,
        scope="operate",
        answers={200: PoolView},
        errors=(NotFound, LedgerUnavailable),
        text=_POOL,
    )
    @bounded
    def one(pool: str) -> Response:
        view: PoolView = pool_view(pool_of(figures.fleet(), pool))
        return json_response(view)

    @blueprint.post("/<pool>/scale-in")
    @Described(
        summary="Give back hosts of a pool that has more GPUs than it wants",
        tag=SERVER,
        scope="operate",
        answers={202: ScaleInView},
        errors=(NotFound, BadParameter, LedgerUnavailable),
        parameters=(_HOSTS,),
        text="The fleet names them, the emptiest and coldest first; they take no more jobs, and finish those they "
        "have. Ask again until may_go: then nothing of the fleet is on a host any more. Asking again is harmless, and "
        "tells workers that could not be told before. A host that comes back after its workers have ended takes jobs; "
        f"before, resuming its GPUs keeps it. {_POOL}",
    )
    def scale_in(pool: str) -> Response:
        most = _most_hosts()
        with ledger_time_limit():
            found = pool_of(figures.newest(), pool)
            chosen = [each.host for each in found.to_leave[:most]]
            if chosen:
                ledger.instances.leave(chosen)
                for host in chosen:
                    ledger.audit.note("host.leave", host, actor())
            leaving = {host.host for host in ledger.scaling.leaving() if pool in host.pools}
            untold = [each for each in ledger.instances.all() if each.host in leaving and not _is_told(each)]
        _tell(ask, untold)
        scale = figures.newest()
        view: ScaleInView = {
            "hosts": [leaving_view(host) for host in scale.leaving if pool in host.pools],
            "pool": pool_view(pool_of(scale, pool)),
        }
        return json_response(view, 202)

    return blueprint


def _is_told(gpu: InstanceRecord) -> bool:
    return gpu.state in ("draining", "drained", "stopped", "lost")


def _tell(ask: Ask, gpus: Iterable[InstanceRecord]) -> None:
    """Have workers take no more jobs. Those that cannot be told take none either, but their hosts do not say so."""
    until_s = time.monotonic() + TELLING_S
    for gpu in gpus:
        if time.monotonic() > until_s:
            return
        try:
            with at_most(ANSWER_S + REACH_S, BrokerUnavailable("The broker does not answer.")):
                ask(DRAIN, gpu)
        except (InstanceUnreachable, BrokerUnavailable):
            continue


def _most_hosts() -> int:
    asked = request.args.get("hosts", str(MOST_HOSTS))
    if not (asked.isascii() and asked.isdigit() and len(asked) < 4 and int(asked) <= MOST_HOSTS):
        raise BadParameter(f"hosts must be a number from 0 to {MOST_HOSTS}.")
    return int(asked)
