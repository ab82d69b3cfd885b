"""gunicorn's settings: `gunicorn -c python:api.gunicorn_config "api.wsgi:create()"`.

gevent workers: a client that waits for its job, or reads its events, costs a greenlet and no thread. The worker class
patches the standard library before it loads the application, which is why nothing is preloaded.
"""

from __future__ import annotations

import json
import logging
import resource
import socket
import sys
from http import HTTPStatus
from typing import Any

import gunicorn.glogging
import gunicorn.util
from gevent.baseserver import BaseServer

from core import log_format
from core.errors import ConfigurationError
from core.outbound.networks import networks_of
from core.rollouts.api_renewal import api_renewal
from core.settings import Settings, load_settings
from core.startup import check_api, comfyui_port_advice, private_from_now_on


def _checked_settings() -> Settings:
    """The settings, once they can work; what is wrong is one line, and no traceback of gunicorn's."""
    private_from_now_on()
    try:
        settings = load_settings()
        log_format.set_up(settings.log_format, "api")
        check_api(settings)
    except ConfigurationError as exc:
        log_format.say(str(exc))
        sys.exit(2)
    return settings


def _bracketed(host: str) -> str:
    """A host as it stands before a port: the colons of IPv6 would be taken for the port's."""
    return f"[{host}]" if ":" in host else host


class Logger(gunicorn.glogging.Logger):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's own lines, which look as all others do."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(log_format.formatter())


_settings = _checked_settings()

wsgi_app = "api.wsgi:create()"
bind = [f"{_bracketed(_settings.api_host)}:{_settings.api_port}"]
if _settings.comfyui_port is not None:
    if (advice := comfyui_port_advice(_settings)) is None:
        bind.append(f"{_bracketed(_settings.api_host)}:{_settings.comfyui_port}")
    else:
        log_format.say(advice)
if _settings.metrics_port is not None:
    bind.append(f"{_bracketed(_settings.metrics_host)}:{_settings.metrics_port}")
workers = _settings.api_processes
worker_class = "gevent"
#: Clients of one process at the same time.
worker_connections = 8_000
preload_app = False
#: A worker whose event loop stands still for this long is replaced; how long a request takes does not matter.
timeout = 60
#: Clients that still wait after this long are cut off; they ask again, and their jobs go on.
graceful_timeout = 10
#: Time for a request's head to arrive, and for which an idle connection is kept: the official SDK polls every 5 s and
#: does not repeat a poll that fails.
keepalive = 20
if _settings.trusted_proxies:
    #: Who is believed when he says that a client came by TLS.
    forwarded_allow_ips = ",".join(str(network) for network in networks_of(_settings.trusted_proxies))
#: No header of a client becomes part of the WSGI environment: by default a local one could move us to another path.
forwarder_headers = ""
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
#: Requests have their lines from us (`api/http/request_log.py`), which say what job and trace they are of.
accesslog = None
logger_class = Logger
errorlog = "-"
loglevel = "warning"
proc_name = "comfyline-api"
control_socket_disable = True


api_renewal.arm()


def on_exit(_server: Any) -> None:
    """gunicorn's hook: its first process ends, and all others have."""
    api_renewal.start_anew_if_due()


def _write_json_error(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """What gunicorn answers to requests that never reach the application, in the envelope of all our errors."""
    if status == HTTPStatus.NOT_IMPLEMENTED:
        # A transfer coding that nobody knows: the client's fault, and no reason to look at this server.
        status, reason = HTTPStatus.BAD_REQUEST, HTTPStatus.BAD_REQUEST.phrase
        message = "The Transfer-Encoding is not known; send the body chunked, or with its Content-Length."
    status = int(status)
    code = "invalid_request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "upstream_error"
    text = message if status < HTTPStatus.INTERNAL_SERVER_ERROR and message else reason
    body = json.dumps({"error": {"code": code, "message": text, "details": None}})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("latin-1"))


# gunicorn has no setting for this. Its workers look the function up when they need it.
gunicorn.util.write_error = _write_json_error


def _without_what_was_sent(record: logging.LogRecord) -> bool:
    """Of a request that gunicorn cannot read the log says what is wrong with it, and quotes nothing: links and keys
    stand there.
    """
    if str(record.msg).startswith("Invalid request from"):
        record.msg = ": ".join(str(record.msg).split(": ")[:2])
    elif isinstance(record.args, tuple):
        record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
    return True


logging.getLogger("gunicorn.error").addFilter(_without_what_was_sent)


#: Connections that are taken in at once, before the answers of ledger and broker are looked at: gevent's own 100 would
#: keep those who are served already waiting, when a thousand clients come back at the same moment.
BaseServer.max_accept = 4


def _raise_file_limit() -> None:
    """Each waiting client is an open file, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_raise_file_limit()
