"""ComfyUI's own protocol over a websocket: who listens, and what it is told.

A connection costs two greenlets and no thread, and holds no connection of the database. It hears of its own jobs from
the hub, as event streams do, and of new ones by a notice; a look at the ledger every few seconds, one for all
connections of a tenant, makes good what got lost on the way.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from contextlib import ExitStack

from flask import Response, request

from api.contracts.comfyui.entries import ACTIVE, CLIENT_ID
from api.contracts.comfyui.fleet_routes import features_of
from api.contracts.comfyui.listeners import Ear, Listeners
from api.contracts.comfyui.messages import message, status_message
from api.contracts.comfyui.prompt_story import PromptStory
from api.contracts.comfyui.refused import COMFYUI
from api.contracts.comfyui.shared_looks import OVERLAP_MS, Counts, NewPrompts
from api.contracts.comfyui.stored_results import StoredResults
from api.contracts.comfyui.web_socket import Upgraded, WebSocket
from api.http.caller import caller
from api.http.error_shapes import ContractBlueprint
from api.http.errors import BadParameter
from api.http.time_limits import ledger_time_limit
from api.schema.described import COMFYUI as TAG
from api.schema.described import Described, Parameter
from api.service.waiting import Hub
from core.clock import now_ms
from core.errors import LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.job import Job
from core.settings import Settings

log = logging.getLogger(__name__)

#: Longest time without a look for jobs whose notice got lost.
LOOK_S = 5.0
#: Shortest time between two counts of what waits.
COUNT_S = 1.0
#: A look may be one that another connection of the tenant has made so long before.
LOOK_AGE_S = LOOK_S / 2
#: Jobs of one client that it is told of at once.
MAX_FOLLOWED = 500
MAX_CLIENT_ID_CHARS = 128


def socket_blueprint(settings: Settings, ledger: Ledger, hub: Hub, results: StoredResults) -> ContractBlueprint:
    """Return the route of the websocket."""
    blueprint = ContractBlueprint("comfyui_socket", __name__, errors=COMFYUI)
    listeners, counts, new_prompts = Listeners(hub), Counts(ledger), NewPrompts(ledger)

    told = Described(
        summary="A websocket that tells of a client's prompts",
        tag=TAG,
        scope="read",
        answers={101: None},
        parameters=(
            Parameter(
                name="clientId",
                place="query",
                description="As in the prompts that it is to tell of. Without it one is made, and told.",
                schema={"type": "string", "maxLength": MAX_CLIENT_ID_CHARS},
            ),
        ),
    )

    @blueprint.get("/comfyui/ws")
    @told
    def no_websocket() -> Response:
        raise BadParameter("This is a websocket: a client has to ask for one.")

    @blueprint.get("/comfyui/ws", websocket=True)
    @told
    def ws() -> Response:
        client_id = request.args.get("clientId", "")[:MAX_CLIENT_ID_CHARS] or uuid.uuid4().hex
        tenant = caller().tenant

        def serve(web_socket: WebSocket) -> None:
            with listeners.listening(tenant, client_id) as ear:
                _Session(web_socket, ear, tenant, client_id, settings, ledger, hub, results, counts, new_prompts).run()

        return Upgraded(serve)

    return blueprint


class _Session:
    """One connection."""

    def __init__(
        self,
        web_socket: WebSocket,
        ear: Ear,
        tenant: str,
        client_id: str,
        settings: Settings,
        ledger: Ledger,
        hub: Hub,
        results: StoredResults,
        counts: Counts,
        new_prompts: NewPrompts,
    ) -> None:
        self._socket, self._ear = web_socket, ear
        self._tenant, self._client_id = tenant, client_id
        self._settings, self._ledger, self._hub, self._results = settings, ledger, hub, results
        self._counts, self._new_prompts = counts, new_prompts
        self._stories: dict[str, tuple[PromptStory, ExitStack]] = {}
        #: Jobs that were told to their ends, and when: the next looks find them once more.
        self._told: dict[str, int] = {}
        self._has_metadata = False
        self._remaining: int | None = None
        self._counted_at_s = self._looked_at_s = 0.0
        self._connected_at_ms = self._since_ms = now_ms()

    def run(self) -> None:
        """Tell the client until it is gone."""
        reader = threading.Thread(target=self._read, name="comfyui websocket", daemon=True)
        reader.start()
        try:
            self._begin()
            while self._socket.is_open:
                self._ear.event.wait(self._pause_s())
                self._ear.event.clear()
                try:
                    self._tell()
                except LedgerUnavailable as exc:
                    log.debug("a websocket will look again: %s", exc)
                    time.sleep(COUNT_S)
                    self._ear.event.set()
        finally:
            for _, watch in self._stories.values():
                watch.close()
            self._socket.close()
            # The connection is ours until its reader has ended.
            reader.join()

    def _read(self) -> None:
        is_first = True
        for text in self._socket.texts():
            if is_first:
                self._take_flags(text)
            is_first = False
        self._ear.event.set()

    def _take_flags(self, text: str) -> None:
        """As in ComfyUI, flags count in the first message alone, and are answered with ours."""
        try:
            said = json.loads(text)
            if said["type"] != "feature_flags":
                return
            self._has_metadata = said["data"].get("supports_preview_metadata") is True
        except (ValueError, LookupError, TypeError, AttributeError):
            return
        self._socket.send(message("feature_flags", features_of(self._settings)))

    def _begin(self) -> None:
        remaining = self._count(time.monotonic())
        labels = {CLIENT_ID: self._client_id}
        with ledger_time_limit():
            active = self._ledger.job_pages.page(of=self._tenant, statuses=ACTIVE, labels=labels, limit=MAX_FOLLOWED)
        self._socket.send(status_message(remaining, sid=self._client_id))
        for job in reversed(active):
            story = self._follow(job, from_start=False)
            for frame in story.so_far():
                self._socket.send(frame)

    def _pause_s(self) -> float:
        return COUNT_S if self._ear.has_moved else LOOK_S

    def _tell(self) -> None:
        for job_id in self._ear.take():
            self._follow_new(job_id)
        if time.monotonic() - self._looked_at_s >= LOOK_S:
            self._look()
        for job_id, (story, watch) in list(self._stories.items()):
            for frame in story.news(has_metadata=self._has_metadata):
                self._socket.send(frame)
            if story.is_over:
                watch.close()
                del self._stories[job_id]
                self._told[job_id] = now_ms()
                self._ear.note_move()
        if self._ear.has_moved and time.monotonic() - self._counted_at_s >= COUNT_S:
            self._tell_status()

    def _tell_status(self) -> None:
        before = self._remaining
        self._ear.has_moved = False
        remaining = self._count(self._ear.moved_at_s)
        if remaining != before:
            self._socket.send(status_message(remaining))

    def _count(self, since_s: float) -> int:
        self._counted_at_s = time.monotonic()
        self._remaining = self._counts.of(self._tenant, since_s=since_s)
        return self._remaining

    def _look(self) -> None:
        """Find jobs of this client whose notice got lost."""
        self._looked_at_s = now_s = time.monotonic()
        looked = self._new_prompts.since(self._tenant, self._since_ms, looked_since_s=now_s - LOOK_AGE_S)
        for job_id in looked.of(self._client_id):
            if job_id not in self._stories and job_id not in self._told:
                self._follow_new(job_id)
        self._since_ms = looked.at_ms
        self._told = {job_id: at_ms for job_id, at_ms in self._told.items() if at_ms > looked.at_ms - 2 * OVERLAP_MS}
        self._ear.note_move(now_s - LOOK_AGE_S)

    def _follow_new(self, job_id: str) -> None:
        try:
            job = self._hub.look(job_id)
        except NotFound:
            return
        if job.tenant == self._tenant:
            self._take_up(job)

    def _take_up(self, job: Job) -> None:
        if job.is_terminal and job.created_at_ms < self._connected_at_ms:
            # As in ComfyUI, what ended before a client came is in the history alone.
            self._told[job.id] = now_ms()
        elif job.id not in self._stories and job.id not in self._told and len(self._stories) < MAX_FOLLOWED:
            self._follow(job, from_start=True)
            self._ear.note_move()

    def _follow(self, job: Job, *, from_start: bool) -> PromptStory:
        watches = ExitStack()
        watch = watches.enter_context(self._hub.watch(job.id, live=True, event=self._ear.event))
        story = PromptStory(job, watch, self._ledger, self._results, from_start=from_start)
        self._stories[job.id] = story, watches
        self._ear.event.set()
        return story
