"""Files straight into the bucket, over HTTP: announced, sent elsewhere, finished, looked at. An extension of v2."""

from __future__ import annotations

from flask import Blueprint, Response

from api.contracts.comfy_v2.assets import HASH, created
from api.contracts.comfy_v2.views import AssetView, DirectUploadView, asset_view
from api.http.caller import links_for
from api.http.errors import HashMismatch, json_response
from api.http.forms import input_path
from api.http.json_body import read_json
from api.schema.bodies import DirectUploadBody, FinishUploadBody
from api.schema.described import ASSETS, Described
from api.schema.validation import read
from api.service.direct_intake import DirectIntake
from api.service.jobs import check_id
from core.clock import now_ms
from core.contracts.comfy_v2 import timestamp
from core.errors import BodyTooLarge, InvalidRequest, LedgerUnavailable, LimitReached, NotFound, StorageUnavailable
from core.ledger import Ledger
from core.records.direct_upload import Claimed, DirectUpload
from core.settings import Settings

#: How long a URL is good for, see `core.storage.direct_uploads`.
LINK_S = 3600


def upload_blueprint(settings: Settings, ledger: Ledger, intake: DirectIntake) -> Blueprint:
    """Return the routes under /api/v2/assets/uploads."""
    blueprint = Blueprint("direct_uploads", __name__, url_prefix="/api/v2/assets/uploads")

    @blueprint.post("")
    @Described(
        summary="Begin to upload a file straight into the bucket",
        tag=ASSETS,
        body=DirectUploadBody,
        scope="submit",
        answers={201: DirectUploadView},
        errors=(BodyTooLarge, LimitReached, StorageUnavailable, LedgerUnavailable),
        text="Only where the server's storage is a bucket; 422 elsewhere. A file of more than 64 MiB may come in "
        "parts, one of more than 5 GiB has to.",
    )
    def begin() -> Response:
        body = read(DirectUploadBody, read_json(settings))
        return json_response(view(intake.begin(size_bytes=body.size_bytes)), 201)

    @blueprint.get("/<upload_id>")
    @Described(
        summary="How far an upload is",
        tag=ASSETS,
        scope="submit",
        answers={200: DirectUploadView},
        errors=(NotFound, StorageUnavailable, LedgerUnavailable),
        text="With fresh URLs for the parts that are missing, while it is sending. Kept for a day.",
    )
    def get(upload_id: str) -> Response:
        return json_response(view(intake.get(check_id(upload_id))))

    @blueprint.post("/<upload_id>/finish")
    @Described(
        summary="An asset from what was sent into the bucket",
        tag=ASSETS,
        body=FinishUploadBody,
        scope="submit",
        answers={200: AssetView, 201: AssetView, 202: DirectUploadView},
        errors=(NotFound, HashMismatch, BodyTooLarge, LimitReached, StorageUnavailable, LedgerUnavailable),
        text="201 for bytes that are new here, 200 for bytes that are known; 202 for files of more than 16 MiB: these "
        "are read first, and the upload tells what came of it.",
    )
    def finish(upload_id: str) -> Response:
        body = read(FinishUploadBody, read_json(settings))
        if not HASH.fullmatch(body.hash.lower()):
            raise InvalidRequest("hash must be blake3: and 64 hex digits.")
        claimed = Claimed(
            hash=body.hash.lower(),
            name=input_path(body.file_path),
            content_type=body.content_type,
            lifetime_s=body.expires_in,
        )
        upload = intake.finish(check_id(upload_id), claimed)
        file = intake.file_of(upload)
        if file is None:
            return json_response(view(upload), 202)
        return created(file, settings, ledger, is_new=upload.is_new)

    def view(upload: DirectUpload) -> DirectUploadView:
        url, parts = intake.places(upload)
        file = intake.file_of(upload)
        asset = None if file is None else asset_view(file, links_for(settings, ledger), file.expires_at_ms)
        return {
            "id": upload.id,
            "status": upload.status,
            "method": "PUT",
            "url": url,
            "part_bytes": upload.part_bytes or None,
            "parts": [
                {"number": number, "size_bytes": upload.parts()[number], "url": link} for number, link in parts.items()
            ],
            "url_expires_at": timestamp(now_ms() + 1000 * LINK_S) if url or parts else None,
            "asset": asset,
            "error": None if upload.error is None else {"code": upload.error[0], "message": upload.error[1]},
        }

    return blueprint
