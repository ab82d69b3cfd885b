"""Puts the HTTP side together and runs the server until the process ends."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from comfy.simulator.execution.prompt_queue import PromptQueue
from comfy.simulator.execution.prompt_worker import Worker
from comfy.simulator.machine.machine import Machine, build_machine
from comfy.simulator.machine.node import NodeClasses
from comfy.simulator.machine.options import Options
from comfy.simulator.nodes.registry import build_registry
from comfy.simulator.routes.file_routes import FileRoutes
from comfy.simulator.routes.info import InfoRoutes
from comfy.simulator.routes.job_routes import JobRoutes
from comfy.simulator.routes.model_routes import ModelRoutes
from comfy.simulator.routes.ordered_faults import FaultRoutes, arm
from comfy.simulator.routes.prompt_routes import PromptRoutes
from comfy.simulator.routes.screening import screen
from comfy.simulator.routes.socket import SocketRoute


async def serve(options: Options) -> None:
    """Answer until the process ends.

    Raises: OSError when the port is taken, ValueError for an unknown fault, TypeError when a node's output could not
    be sent to a client (which ends ComfyUI too).
    """
    machine = build_machine(options)
    classes = build_registry(test_nodes=options.test_nodes)
    prompts = PromptQueue(lambda: _publish_depth(machine, prompts))
    app = build_app(machine, classes, prompts)
    # Open websockets would hold the end back for a minute.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, options.listen, options.port).start()
        sender = asyncio.create_task(machine.hub.run())
        # One turn of the loop, so that the hub knows its loop before the worker publishes.
        await asyncio.sleep(0)
        Worker(machine, classes, prompts).start()
        _announce(machine)
        for text in options.faults:
            arm(machine, *machine.faults.order_text(text))
        await sender
    finally:
        await runner.cleanup()


def build_app(machine: Machine, classes: NodeClasses, prompts: PromptQueue) -> web.Application:
    """The aiohttp application, without its socket."""
    app = web.Application(client_max_size=machine.options.max_body_bytes, middlewares=screen(machine))
    info = InfoRoutes(machine, classes)
    models = ModelRoutes(machine)
    routes = [
        *SocketRoute(machine, prompts, info.features()).routes(),
        *PromptRoutes(machine, classes, prompts).routes(),
        *FileRoutes(machine.paths, machine.options.release).routes(),
        *info.routes(),
        *models.routes(),
    ]
    # Every plain route exists a second time below /api; these are the exceptions.
    app.add_routes(routes)
    app.add_routes([web.RouteDef(r.method, f"/api{r.path}", r.handler, r.kwargs) for r in routes])
    app.add_routes(JobRoutes(machine, prompts).routes())
    app.add_routes(info.internal_routes())
    app.add_routes(FaultRoutes(machine).routes())
    app.add_routes(models.simulator_routes())
    app.router.add_get("/{tail:.*}", _no_such_file)
    return app


async def _no_such_file(request: web.Request) -> web.Response:
    # ComfyUI ends its table with the frontend's static files, so an unknown path is a missing file to it, and an
    # unknown path asked for with another method than GET is a 405.
    if request.path == "/":
        return web.Response(
            text="<h1>SIMULATED ComfyUI</h1><p>No frontend here, only the API.", content_type="text/html"
        )
    return web.Response(status=404, content_type="application/octet-stream")


def _publish_depth(machine: Machine, prompts: PromptQueue) -> None:
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": prompts.remaining()}}}
    machine.hub.publish("status", data, None)


def _announce(machine: Machine) -> None:
    options = machine.options
    machine.log(f"SIMULATED ComfyUI {options.release.text}: no model is run, every picture is stamped SIMULATED.")
    machine.log(f"Set cuda device to: {options.cuda_device}" if options.cuda_device else "SIMULATED GPU 0")
    machine.log(f"To see the API go to: http://{options.listen}:{options.port}")
