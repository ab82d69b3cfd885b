"""The HTTP API: one Flask application, a blueprint for each contract, one service under all of them.

contracts/       what clients send and get, one room for each contract
server/          health, readiness, the documentation page, the console: its files are in `console/` here, built from
                 the sources in `console/` beside this package
service/         what all contracts do with the ledger
schema/          bodies and answers as models; the OpenAPI document is made of them
http/            what every route needs: keys, bodies, files, errors, time limits
wsgi             makes the application of one process (gunicorn)
gunicorn_config  gunicorn's settings (gunicorn, `comfyline api`)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flask import Flask

from api.contracts.access import access_blueprint
from api.contracts.audit import audit_blueprint
from api.contracts.autoscale import autoscale_blueprint
from api.contracts.batch_results import batch_results_blueprint
from api.contracts.batches.routes import batches_blueprint
from api.contracts.bulk import bulk_blueprint
from api.contracts.comfy_v2.assets import assets_blueprint
from api.contracts.comfy_v2.feed_route import feed_blueprint
from api.contracts.comfy_v2.job_routes import v2_blueprint
from api.contracts.comfy_v2.upload_routes import upload_blueprint
from api.contracts.comfyui import comfyui_blueprints
from api.contracts.comfyui.paths import ComfyuiPaths
from api.contracts.conversion import conversion_blueprint
from api.contracts.deliveries import deliveries_blueprint
from api.contracts.generate.routes import generate_blueprint
from api.contracts.generate.stream import generate_stream_blueprint
from api.contracts.gpus import Ask, gpus_blueprint
from api.contracts.history import history_blueprint
from api.contracts.mcp.endpoint import mcp_blueprint
from api.contracts.mcp.toolbox import toolbox
from api.contracts.model_files import model_files_blueprint
from api.contracts.model_tokens import model_tokens_blueprint
from api.contracts.pyworker.prompt import prompt_blueprint
from api.contracts.pyworker.tasks import pyworker_blueprint
from api.contracts.rollouts import rollouts_blueprint
from api.contracts.router.model_routes import router_blueprint
from api.contracts.session import session_blueprint
from api.contracts.templates import workflows_blueprint
from api.contracts.tenants import tenants_blueprint
from api.contracts.usage import usage_blueprint
from api.http.auth import Guard
from api.http.error_handlers import register_error_handlers, say_when_storage_is_away
from api.http.forwarded import register_forwarding
from api.http.key_ring import KeyRing
from api.http.request_limits import RequestLimits
from api.http.request_log import register_request_log
from api.http.storage_limit import while_storage_is_there
from api.server.console_page import console_blueprint
from api.server.docs_page import docs_blueprint
from api.server.health import health_blueprint
from api.server.metrics.metrics_port import MetricsPort
from api.server.metrics.metrics_route import metrics_blueprint
from api.server.metrics.scrape import Scraper
from api.service.batch_results.sheets import Sheets
from api.service.batches.service import BatchService
from api.service.bulk_work import BulkService
from api.service.direct_intake import DirectIntake
from api.service.dry_runs.asked import refuse_dry_runs_elsewhere
from api.service.dry_runs.batch_trial import BatchDryRuns
from api.service.dry_runs.job_trial import DryRuns
from api.service.estimates import Estimates
from api.service.input_files import Intake
from api.service.jobs import JobService, TurnPublisher
from api.service.pool_figures import PoolFigures
from api.service.reruns import Reruns
from api.service.tenant_room import TenantRoom
from api.service.tenant_use import TenantUse
from api.service.waiting import Hub
from core.ledger import Ledger
from core.messaging.notices import Notice
from core.settings import Settings
from core.storage.marker import StorageMarker
from core.storage.patience import wait_within
from workflows.templates.library import SHIPPED, Library


def create_app(
    settings: Settings,
    *,
    ledger: Ledger,
    publisher: TurnPublisher,
    hub: Hub,
    ask: Ask,
    ring: KeyRing | None = None,
    announce: Callable[[Notice], None] | None = None,
) -> Flask:
    """Return the application of one process.

    Parameters:
      announce: tells all API processes of something; None: there is but this one.
      hub: its `notify` should hear of every change notice, from the broker and from this process's own ledger.
      ask: reaches the workers of GPUs for operators.
      ring: the keys of this process, where they are known before the first request.
    """
    app = Flask("comfyline", static_folder=None)
    # One address for each thing: no redirect from //jobs/x or jobs/x/ to it.
    app.url_map.merge_slashes = False
    register_request_log(app, settings.request_log)
    register_forwarding(app, settings)
    requests = RequestLimits(settings)
    guard = Guard(settings, ledger.links, ring or KeyRing(settings, ledger.keys), requests, ledger.sessions)
    guard.register(app)
    requests.register(app)
    register_error_handlers(app)
    marker = StorageMarker(settings, ledger.storage_moves)
    say_when_storage_is_away(app, marker)
    wait_within(partial(while_storage_is_there, marker))
    estimates = Estimates(ledger)
    room = TenantRoom(ledger, estimates)
    intake = Intake(settings, ledger, marker, room)
    service = JobService(settings, ledger, publisher, intake, room)
    hub.before_moves(estimates.look_at_moves)
    refuse_dry_runs_elsewhere(app)
    dry_runs = DryRuns(settings, ledger, service, intake, estimates)
    app.register_blueprint(v2_blueprint(settings, ledger, service, hub, estimates, dry_runs))
    app.register_blueprint(feed_blueprint(settings, ledger, hub))
    app.register_blueprint(assets_blueprint(settings, ledger, intake, guard))
    direct = DirectIntake(settings, ledger, marker, publisher, room)
    app.register_blueprint(upload_blueprint(settings, ledger, direct))
    library = Library([SHIPPED] if settings.workflows_dir is None else [SHIPPED, settings.workflows_dir])
    batches = BatchService(settings, ledger, publisher, service, library, room)
    batch_dry_runs = BatchDryRuns(ledger, service, batches, dry_runs, estimates)
    app.register_blueprint(batches_blueprint(settings, ledger, batches, estimates, batch_dry_runs))
    app.register_blueprint(generate_blueprint(settings, ledger, service, hub, library, estimates))
    app.register_blueprint(generate_stream_blueprint(settings, ledger, service, hub, library, estimates))
    app.register_blueprint(router_blueprint(settings, ledger, service, hub, library, estimates))
    app.register_blueprint(prompt_blueprint(settings, ledger, service, hub, library))
    app.register_blueprint(pyworker_blueprint(settings, ledger, service, intake))
    for native in comfyui_blueprints(settings, ledger, service, intake, hub, announce or hub.notify):
        app.register_blueprint(native)
    app.register_blueprint(workflows_blueprint(settings, ledger, service, library, intake, dry_runs))
    app.register_blueprint(conversion_blueprint(settings, service))
    reruns, bulk = Reruns(settings, ledger, library), BulkService(settings, ledger, publisher, intake)
    app.register_blueprint(bulk_blueprint(settings, ledger, service, reruns, bulk))
    sheets = Sheets(settings, ledger)
    app.register_blueprint(batch_results_blueprint(settings, ledger, sheets))
    tools = toolbox(settings, ledger, service, batches, library, intake, hub, estimates, sheets)
    app.register_blueprint(mcp_blueprint(settings, guard, tools))
    app.register_blueprint(deliveries_blueprint(settings, ledger, publisher))
    app.register_blueprint(gpus_blueprint(ledger, ask, estimates))
    app.register_blueprint(autoscale_blueprint(settings, ledger, ask, PoolFigures(ledger, estimates)))
    app.register_blueprint(history_blueprint(ledger))
    app.register_blueprint(rollouts_blueprint(settings, ledger))
    app.register_blueprint(model_files_blueprint(settings, ledger))
    app.register_blueprint(model_tokens_blueprint(settings, ledger))
    app.register_blueprint(tenants_blueprint(settings, ledger, TenantUse(ledger, requests.counts), publisher))
    app.register_blueprint(access_blueprint(settings, ledger, library))
    app.register_blueprint(session_blueprint(settings, ledger, guard))
    app.register_blueprint(usage_blueprint(settings, ledger))
    app.register_blueprint(audit_blueprint(ledger))
    app.register_blueprint(health_blueprint(settings, ledger, guard, marker))
    app.register_blueprint(docs_blueprint(settings, guard))
    app.register_blueprint(console_blueprint())
    scraper = Scraper(settings, ledger, marker)
    app.register_blueprint(metrics_blueprint(scraper))
    app.wsgi_app = ComfyuiPaths(app.wsgi_app, settings.comfyui_port)  # type: ignore[method-assign]
    if settings.metrics_port is not None:
        app.wsgi_app = MetricsPort(app.wsgi_app, settings.metrics_port, scraper)  # type: ignore[method-assign]
    return app
