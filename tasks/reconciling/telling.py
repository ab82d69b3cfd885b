"""Tells the operator's own program something: runs a command, or posts to a URL, signed as webhooks are."""

from __future__ import annotations

import json
import logging
import time
import uuid
from http import HTTPStatus
from typing import Any

import requests

from core.contracts.registry import CONTRACT_V2
from core.errors import AddressRefused
from core.outbound import Policy
from core.outbound.own_command import run_command
from core.outbound.sessions import GuardedSession
from core.settings import Settings
from core.webhooks.keys import split_secrets
from core.webhooks.signing import headers_for, load_signing_key

log = logging.getLogger(__name__)

#: How long a command may run, and a post may take, in seconds.
COMMAND_S = 60.0
POST_S = 15.0
_COMMAND = "COMFYLINE_AUTOSCALE_COMMAND"


class NotTold(Exception):
    """The command failed, or nobody took the post. It was logged."""


class Teller:
    """Tells by the command and the URL of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._private_key = load_signing_key(settings.webhook_signing_key.get_secret_value())
        self._failed = ""

    def tell(self, event: dict[str, Any]) -> None:
        """Run the command with an event on its standard input, and post it. Raises NotTold."""
        body = json.dumps(event).encode()
        problems = []
        if self._settings.autoscale_command:
            problems.append(run_command(_COMMAND, self._settings.autoscale_command, limit_s=COMMAND_S, given=body))
        if self._settings.autoscale_webhook_url:
            problems.append(self._post(self._settings.autoscale_webhook_url, body, str(event["type"])))
        problem = " ".join(filter(None, problems))
        if problem and problem != self._failed:
            # Once, and not at each try.
            log.warning("%s Tried again until it succeeds.", problem)
        self._failed = problem
        if problem:
            raise NotTold(problem)

    def _post(self, url: str, body: bytes, event: str) -> str | None:
        signed = headers_for(
            body,
            message_id=f"msg_{uuid.uuid4().hex}",
            timestamp_s=int(time.time()),
            secrets=split_secrets(self._settings.autoscale_webhook_secret.get_secret_value()),
            contract=CONTRACT_V2,
            private_key=self._private_key,
        )
        own = {"Content-Type": "application/json", "User-Agent": "Comfyline", "X-Webhook-Event": event}
        with GuardedSession(Policy.of_operator(self._settings), limit_s=POST_S) as session:
            try:
                answer = session.post(url, data=body, headers={**own, **signed}, timeout=POST_S, stream=True)
            except AddressRefused as exc:
                return f"COMFYLINE_AUTOSCALE_WEBHOOK_URL: {exc}."
            except requests.RequestException as exc:
                # Its message repeats the URL, which may hold a key.
                return f"COMFYLINE_AUTOSCALE_WEBHOOK_URL took no post ({type(exc).__name__})."
            if not HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
                return f"COMFYLINE_AUTOSCALE_WEBHOOK_URL answered {answer.status_code}."
        return None
