"""ComfyUI's own protocol: to a client that talks to one ComfyUI the fleet is one with many GPUs.

paths           where it is served (create_app)
prompt_views    prompts, queue, history, jobs
socket_route    the websocket: who listens
file_views      files of jobs, and files that come in
fleet_routes    nodes, models, devices, features (socket_route)
user_routes     what the editor keeps for its user
editor_files    the official editor, where it is installed
template_files  the official templates, where they are installed (editor_files)
submission      a prompt as a job request (prompt_views)
prompt_lists    the jobs of a tenant as ComfyUI lists them (prompt_views)
entries         jobs in ComfyUI's words (prompt_lists, prompt_story, messages)
job_entries     jobs in those of its newer versions (prompt_lists)
prompt_story    the life of a prompt, message by message (socket_route)
messages        the messages (socket_route, prompt_story)
web_socket      one connection (socket_route)
listeners       who listens, and what each has heard (socket_route)
shared_looks    looks at the ledger for all connections of a tenant (socket_route)
stored_results  texts and pictures that nodes made (prompt_views, socket_route)
node_lists      the classes of all instances together (fleet_routes)
pictures        pictures in another form (file_views)
user_paths      paths that files of users may have (user_routes)
refused         how it answers errors
answers         what the routes have in common
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint

from api.contracts.comfyui.editor_files import editor_blueprint
from api.contracts.comfyui.file_views import files_blueprint
from api.contracts.comfyui.fleet_routes import fleet_blueprint
from api.contracts.comfyui.node_lists import NodeLists
from api.contracts.comfyui.prompt_views import prompts_blueprint
from api.contracts.comfyui.socket_route import socket_blueprint
from api.contracts.comfyui.stored_results import StoredResults
from api.contracts.comfyui.user_routes import users_blueprint
from api.service.input_files import Intake
from api.service.jobs import JobService
from api.service.waiting import Hub
from core.ledger import Ledger
from core.messaging.notices import Notice
from core.settings import Settings


def comfyui_blueprints(
    settings: Settings,
    ledger: Ledger,
    service: JobService,
    intake: Intake,
    hub: Hub,
    announce: Callable[[Notice], None],
) -> tuple[Blueprint, ...]:
    """Return all routes of the contract.

    Parameters:
      announce: tells all API processes of something.
    """
    results, nodes = StoredResults(settings, ledger), NodeLists(ledger)
    return (
        prompts_blueprint(settings, ledger, service, results, announce),
        files_blueprint(settings, ledger, service, intake),
        fleet_blueprint(settings, ledger, nodes),
        users_blueprint(settings, ledger),
        socket_blueprint(settings, ledger, hub, results),
        editor_blueprint(nodes),
    )
