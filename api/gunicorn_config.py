"""gunicorn's settings: `gunicorn -c python:api.gunicorn_config "api.wsgi:create()"`.

gevent workers: a client that waits for its job, or reads its events, costs a greenlet and no thread. The worker class
patches the standard library before it loads the application, which is why nothing is preloaded.
"""

from __future__ import annotations

import resource

from core.settings import load_settings

_settings = load_settings()

wsgi_app = "api.wsgi:create()"
bind = f"{_settings.api_host}:{_settings.api_port}"
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
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
accesslog = None
errorlog = "-"
loglevel = "warning"
proc_name = "fleet-api"
control_socket_disable = True


def _raise_file_limit() -> None:
    """Each waiting client is an open file, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_raise_file_limit()
