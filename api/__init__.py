"""The HTTP API: one Flask application, a blueprint for each contract, one service under all of them.

contracts/       what clients send and get, one room for each contract
server/          health, readiness, the documentation page
service/         what all contracts do with the ledger
schema/          bodies and answers as models; the OpenAPI document is made of them
http/            what every route needs: keys, bodies, files, errors, time limits
wsgi             makes the application of one process (gunicorn)
gunicorn_config  gunicorn's settings (gunicorn, `comfyline api`)
"""

from __future__ import annotations

from flask import Flask

from api.contracts.access import access_blueprint
from api.contracts.comfy_v2.assets import assets_blueprint
from api.contracts.comfy_v2.job_routes import v2_blueprint
from api.contracts.comfy_v2.upload_routes import upload_blueprint
from api.contracts.deliveries import deliveries_blueprint
from api.contracts.generate.routes import generate_blueprint
from api.contracts.generate.stream import generate_stream_blueprint
from api.contracts.gpus import Ask, gpus_blueprint
from api.contracts.model_files import model_files_blueprint
from api.contracts.model_tokens import model_tokens_blueprint
from api.contracts.pyworker.prompt import prompt_blueprint
from api.contracts.pyworker.tasks import pyworker_blueprint
from api.contracts.templates import workflows_blueprint
from api.http.auth import Guard
from api.http.error_handlers import register_error_handlers, say_when_storage_is_away
from api.http.key_ring import KeyRing
from api.http.request_log import register_request_log
from api.server.docs_page import docs_blueprint
from api.server.health import health_blueprint
from api.service.direct_intake import DirectIntake
from api.service.estimates import Estimates
from api.service.input_files import Intake
from api.service.jobs import JobService, TurnPublisher
from api.service.waiting import Hub
from core.ledger import Ledger
from core.settings import Settings
from core.storage.marker import StorageMarker
from workflows.templates.library import SHIPPED, Library


def create_app(
    settings: Settings, *, ledger: Ledger, publisher: TurnPublisher, hub: Hub, ask: Ask, ring: KeyRing | None = None
) -> Flask:
    """Return the application of one process.

    Parameters:
      hub: its `notify` should hear of every change notice, from the broker and from this process's own ledger.
      ask: reaches the workers of GPUs for operators.
      ring: the keys of this process, where they are known before the first request.
    """
    app = Flask("comfyline", static_folder=None)
    # One address for each thing: no redirect from //jobs/x or jobs/x/ to it.
    app.url_map.merge_slashes = False
    register_request_log(app, settings.request_log)
    guard = Guard(settings, ledger.links, ring or KeyRing(settings, ledger.keys))
    guard.register(app)
    register_error_handlers(app)
    marker = StorageMarker(settings, ledger.facts)
    say_when_storage_is_away(app, marker)
    intake = Intake(settings, ledger, marker)
    service = JobService(settings, ledger, publisher, intake)
    estimates = Estimates(ledger)
    hub.before_moves(estimates.look_at_moves)
    app.register_blueprint(v2_blueprint(settings, ledger, service, hub, estimates))
    app.register_blueprint(assets_blueprint(settings, ledger, intake, guard))
    direct = DirectIntake(settings, ledger, marker, publisher)
    app.register_blueprint(upload_blueprint(settings, ledger, direct))
    library = Library([SHIPPED] if settings.workflows_dir is None else [SHIPPED, settings.workflows_dir])
    app.register_blueprint(generate_blueprint(settings, ledger, service, hub, library, estimates))
    app.register_blueprint(generate_stream_blueprint(settings, ledger, service, hub, library, estimates))
    app.register_blueprint(prompt_blueprint(settings, ledger, service, hub, library))
    app.register_blueprint(pyworker_blueprint(settings, ledger, service, intake))
    app.register_blueprint(workflows_blueprint(settings, ledger, service, library, intake))
    app.register_blueprint(deliveries_blueprint(settings, ledger, publisher))
    app.register_blueprint(gpus_blueprint(ledger, ask, estimates))
    app.register_blueprint(model_files_blueprint(settings, ledger))
    app.register_blueprint(model_tokens_blueprint(settings, ledger))
    app.register_blueprint(access_blueprint(settings, ledger))
    app.register_blueprint(health_blueprint(settings, ledger, guard, marker))
    app.register_blueprint(docs_blueprint(settings, guard))
    return app
