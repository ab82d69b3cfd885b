"""Whether a request is a dry run: `?dry_run=true`. What it means must be sure, for the other meaning is a job."""

from __future__ import annotations

from flask import Flask, request

from api.http.errors import BadParameter
from api.schema.described import DRY_RUN, Described

_NAME = DRY_RUN.name
_MEANS = {"true": True, "1": True, "false": False, "0": False}


def is_dry_run() -> bool:
    """Return whether the present request is one. Raises BadParameter."""
    values = request.args.getlist(_NAME)
    if not values:
        return False
    if len(values) > 1 or values[0] not in _MEANS:
        raise BadParameter(f"{_NAME} must be true or false, once; nothing was submitted.")
    return _MEANS[values[0]]


def refuse_dry_runs_elsewhere(app: Flask) -> None:
    """Have routes that know no dry run refuse one: to ignore the word would do what was only to be tried."""

    def refuse() -> None:
        # Cheap, on the path of every request.
        if _NAME not in request.environ.get("QUERY_STRING", "") or _NAME not in request.args:
            return
        view = app.view_functions.get(request.endpoint or "")
        described = None if view is None else Described.of(view)
        if request.method in ("POST", "PUT", "PATCH", "DELETE") and described and DRY_RUN not in described.parameters:
            raise BadParameter(
                f"{request.method} {request.path[:100]} knows no {_NAME}; nothing was done. Dry runs are for jobs of "
                "Comfy API v2, of workflow templates, and for batches."
            )

    app.before_request(refuse)
