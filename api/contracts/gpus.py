"""The fleet's GPUs over HTTP: how each stands, and drain, resume and restart for operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flask import Blueprint, Response, request

from api.contracts.gpu_views import GpusView, GpuView, GpuViews
from api.http.caller import actor
from api.http.errors import json_response
from api.http.time_limits import at_most, bounded, ledger_time_limit
from api.schema.described import SERVER, Described, Parameter
from api.service.estimates import Estimates
from core.errors import BrokerUnavailable, InstanceUnreachable, InvalidRequest, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.act import ActName
from core.records.instance import InstanceRecord
from tasks.messaging.remote_control import ANSWER_S, DRAIN, RESTART, RESUME

#: Has a command done by the worker of an instance, as `tasks.messaging.remote_control.ask` does; raises what it does.
Ask = Callable[[str, InstanceRecord], None]

#: Beyond the time that the worker has: the broker has to be reached first.
REACH_S = 3.0
ERRORS = (NotFound, InvalidRequest, InstanceUnreachable, BrokerUnavailable, LedgerUnavailable)
_ACTS: Mapping[str, ActName] = {DRAIN: "gpu.drain", RESUME: "gpu.resume", RESTART: "gpu.restart"}
HOST = Parameter(name="host", place="query", description="Only those of this host.", schema={"type": "string"})
HELD = "A name is gpu0@host, or gpu0 where only one host has that. The answer means that its worker has begun."


def gpus_blueprint(ledger: Ledger, ask: Ask, estimates: Estimates) -> Blueprint:
    """Return the routes under /api/v2/gpus: an extension, for operators."""
    blueprint = Blueprint("gpus", __name__, url_prefix="/api/v2/gpus")

    def seen(records: Sequence[InstanceRecord]) -> GpuViews:
        """Look at what waits, anew if a GPU has come since the last look."""
        copies = ledger.copies.all()
        views = GpuViews(estimates.outlook(), copies)
        if all(views.knows(record) for record in records):
            return views
        estimates.renew()
        return GpuViews(estimates.outlook(), copies)

    @blueprint.get("")
    @Described(
        summary="The GPUs of the fleet",
        tag=SERVER,
        scope="operate",
        answers={200: GpusView},
        errors=(LedgerUnavailable,),
        parameters=(HOST,),
    )
    @bounded
    def every() -> Response:
        host = request.args.get("host")
        found = [record for record in ledger.instances.all() if host in (None, record.host)]
        views = seen(found)
        view: GpusView = {"gpus": [views.view(record) for record in found]}
        return json_response(view)

    def tell(command: str, name: str) -> Response:
        with ledger_time_limit():
            record = find(ledger.instances.all(), name)
            if command == RESUME:
                # Whoever was giving its host back finds that it stays.
                ledger.instances.stay(record.name)
        with at_most(ANSWER_S + REACH_S, BrokerUnavailable("The broker does not answer.")):
            ask(command, record)
        with ledger_time_limit():
            ledger.audit.note(_ACTS[command], record.name, actor())
            now = find(ledger.instances.all(), record.name)
            return json_response(seen([now]).view(now), 202)

    @blueprint.post("/<name>/drain")
    @Described(
        summary="Have a GPU finish its job and take no more",
        tag=SERVER,
        scope="operate",
        answers={202: GpuView},
        errors=ERRORS,
        text=f"Until it is resumed, also when its worker is started anew. {HELD}",
    )
    def drain(name: str) -> Response:
        return tell(DRAIN, name)

    @blueprint.post("/<name>/resume")
    @Described(
        summary="Have a drained GPU take jobs again, or start a quarantined one",
        tag=SERVER,
        scope="operate",
        answers={202: GpuView},
        errors=ERRORS,
        text=HELD,
    )
    def resume(name: str) -> Response:
        return tell(RESUME, name)

    @blueprint.post("/<name>/restart")
    @Described(
        summary="Restart a GPU's ComfyUI when its job is done",
        tag=SERVER,
        scope="operate",
        answers={202: GpuView},
        errors=ERRORS,
        text=f"A job that is not done within COMFYLINE_DRAIN_GRACE_S is given back, and goes on elsewhere. {HELD}",
    )
    def restart(name: str) -> Response:
        return tell(RESTART, name)

    return blueprint


def find(records: Sequence[InstanceRecord], name: str) -> InstanceRecord:
    """Return the instance of that name, or the only one that is called so on any host.

    Raises:
      NotFound: there is none.
      InvalidRequest: there is more than one.
    """
    found = [record for record in records if name in (record.name, record.gpu_name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(record.name for record in found or records) or "none"
    if found:
        raise InvalidRequest(f"{name} is on several hosts; name one of {known}.")
    raise NotFound(f"There is no {name} in this fleet. It has: {known}.")
