"""Assets over HTTP: files that come in, and the metadata and bytes of all files."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from api.contracts.comfy_v2.views import AssetView, asset_view
from api.http.auth import Guard
from api.http.caller import actor, caller, links_for
from api.http.errors import AssetInUse, BlobNotFound, HashMismatch, LinkRefused, PreconditionFailed, json_response
from api.http.files import content_response, link_to_bucket
from api.http.forms import input_path, lifetime_s, upload_form
from api.http.json_body import read_json
from api.http.signed_links import cache_control
from api.http.time_limits import bounded, ledger_time_limit
from api.schema.bodies import FromHashBody
from api.schema.conditions import CONDITIONS
from api.schema.described import ANY_TYPE, ASSETS, FORM_ERRORS, Described, Parameter, form_of
from api.schema.validation import read
from api.service.input_files import Intake
from api.service.jobs import check_id
from core.errors import (
    InvalidRequest,
    LedgerUnavailable,
    LimitReached,
    NotFound,
    OutputUnavailable,
    RangeNotSatisfiable,
)
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.links import EXPIRES, SIGNATURE
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import input_storage, output_storage

LINK = tuple(
    Parameter(name=name, place="query", description=f"Of a signed link: {words}.", schema=schema)
    for name, words, schema in (
        (EXPIRES, "its end, in milliseconds since 1970", {"type": "integer"}),
        (SIGNATURE, "what says that we made it", {"type": "string"}),
    )
)
#: How the official SDK begins to name itself, in Python and in TypeScript.
_SDK = "comfy-sdk-"
HASH = re.compile(r"blake3:[0-9a-f]{64}")


def assets_blueprint(settings: Settings, ledger: Ledger, intake: Intake, guard: Guard) -> Blueprint:
    """Return the routes of assets under /api/v2."""
    blueprint = Blueprint("assets", __name__, url_prefix="/api/v2/assets")

    @blueprint.post("")
    @Described(
        summary="Upload a file",
        tag=ASSETS,
        form=form_of(
            "file",
            "file_path",
            file_path="Its path below the input folder, such as rooms/photo.png.",
            content_type="Default: that of the part.",
            expected_hash="blake3:<64 hex digits>; another content is refused.",
            expires_in="Seconds for which it is kept, 60 to 604800.",
        ),
        scope="submit",
        answers={200: AssetView, 201: AssetView},
        errors=(*FORM_ERRORS, HashMismatch),
        text="201 for bytes that are new here, 200 for bytes that are known.",
    )
    def upload() -> Response:
        with upload_form(settings) as form:
            file = form.file("file")
            path = form.text("file_path")
            if path is None:
                raise InvalidRequest(
                    "The form needs a part file_path: a path below the input folder, such as photo.png."
                )
            received, is_new = intake.receive(
                file.stream,
                name=input_path(path),
                declared=form.text("content_type") or file.mimetype,
                expected_hash=form.text("expected_hash"),
                lifetime_s=lifetime_s(form.text("expires_in")),
            )
        return created(received, settings, ledger, is_new=is_new)

    @blueprint.post("/from-hash")
    @Described(
        summary="An asset from bytes that are here already",
        tag=ASSETS,
        body=FromHashBody,
        scope="submit",
        answers={200: AssetView},
        errors=(BlobNotFound, LimitReached, LedgerUnavailable),
    )
    def from_hash() -> Response:
        body = read(FromHashBody, read_json(settings))
        known = _known(ledger, body.hash)
        if known is None:
            raise BlobNotFound("There is no file with this hash; upload it.")
        name = input_path(body.file_path) if body.file_path else known.name
        again = intake.again(known, name=name, lifetime_s=body.expires_in)
        return created(again, settings, ledger, is_new=False)

    @blueprint.route("/by-hash/<digest>", methods=["HEAD"])
    @Described(
        summary="Whether bytes are here already",
        tag=ASSETS,
        scope="submit",
        answers={200: None, 404: None},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def by_hash(digest: str) -> Response:
        return Response(status=200 if _known(ledger, digest) else 404)

    @blueprint.get("/<asset_id>")
    @Described(
        summary="The metadata of a file",
        tag=ASSETS,
        scope="read",
        answers={200: AssetView},
        errors=(NotFound, LedgerUnavailable),
    )
    def get(asset_id: str) -> Response:
        found = _found(intake, asset_id)
        return json_response(asset_view(found, links_for(settings, ledger), _kept_until_ms(found)))

    @blueprint.delete("/<asset_id>")
    @Described(
        summary="Remove an uploaded file",
        tag=ASSETS,
        scope="cancel",
        answers={204: None},
        errors=(NotFound, AssetInUse, LedgerUnavailable),
    )
    def delete(asset_id: str) -> Response:
        if isinstance(_found(intake, asset_id), Output):
            raise AssetInUse("This asset is the output of a job, and is kept as long as the job.")
        with ledger_time_limit():
            ledger.input_files.remove(asset_id, of=caller().sees, by=actor())
        return Response(status=204)

    @blueprint.get("/<asset_id>/content")
    @Described(
        summary="The bytes of a file, whole or one range",
        tag=ASSETS,
        scope="read",
        answers={200: ANY_TYPE, 206: ANY_TYPE, 302: None, 304: None},
        errors=(NotFound, OutputUnavailable, RangeNotSatisfiable, PreconditionFailed, LinkRefused, LedgerUnavailable),
        parameters=(*LINK, *CONDITIONS),
        text="The url of an output or an asset is this route with a signature: it needs no key until url_expires_at. "
        "The official SDK, where it has a key, is sent on to such a link (302): it asks so for one to hand on. "
        "A server whose storage is a bucket may send links on to that.",
    )
    def content(asset_id: str) -> Response:
        found = _found(intake, asset_id)
        if guard.has_key() and _asks_for_a_link():
            link = links_for(settings, ledger).content(asset_id, until_ms=_kept_until_ms(found))
            return Response(status=302, headers={"Location": link.url, "Cache-Control": "no-store"})
        storage = output_storage(settings) if isinstance(found, Output) else input_storage(settings)
        kept = cache_control()
        if kept is not None and settings.storage_redirect and (url := link_to_bucket(found, storage)) is not None:
            return Response(status=302, headers={"Location": url, "Cache-Control": "no-store"})
        answer = content_response(found, storage, cache_control=kept)
        if kept is not None:
            # Pages that let nothing foreign in unless it says so may show what they have a link to.
            answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return answer

    def _kept_until_ms(asset: Output | InputFile) -> int:
        if not isinstance(asset, Output):
            return asset.expires_at_ms
        with ledger_time_limit():
            return ledger.jobs.get(asset.job_id, of=caller().sees).files_expire_at_ms

    return blueprint


def _asks_for_a_link() -> bool:
    """Whether this is the official SDK: for a link to hand on, it asks for the bytes and looks where it is sent.

    It follows when it wants the bytes. All others get them at once: many do not follow, curl for one, and find links
    in the answers.
    """
    is_sdk = request.headers.get("User-Agent", "").startswith(_SDK)
    return is_sdk and request.method == "GET" and SIGNATURE not in request.args and "Range" not in request.headers


def _found(intake: Intake, asset_id: str) -> InputFile | Output:
    found = intake.known_asset(check_id(asset_id))
    if found is None:
        raise NotFound(f"There is no asset {asset_id}.")
    return found


def _known(ledger: Ledger, digest: str) -> InputFile | None:
    if not HASH.fullmatch(digest):
        return None
    with ledger_time_limit():
        return ledger.input_files.by_hash(digest, of=caller().tenant)


def created(upload: InputFile, settings: Settings, ledger: Ledger, *, is_new: bool) -> Response:
    """Return the answer to a file that has come in."""
    view = asset_view(upload, links_for(settings, ledger), upload.expires_at_ms)
    view["created_new"] = is_new
    return json_response(view, 201 if is_new else 200)
