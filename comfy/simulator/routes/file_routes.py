"""Serves uploads and downloads of pictures and other files."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import os
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from comfy.simulator.machine.paths import Paths, file_sha256, is_inside
from comfy.simulator.machine.versions import Release
from comfy.simulator.media.images import save_png

#: Types a browser would run; ComfyUI hands them out as plain bytes.
_UNSAFE_TYPES = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
_UNSAFE_SINCE_FIX = {"image/svg+xml", "text/xml", "application/xml"}


class FileRoutes:
    """The handlers. A request without what they need ends in a 500 where ComfyUI's does."""

    def __init__(self, paths: Paths, release: Release) -> None:
        self._paths = paths
        self._release = release

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
            web.get("/view", self.view),
            web.get("/view_metadata/{folder}", self.view_metadata),
        ]

    async def upload_image(self, request: web.Request) -> web.Response:
        return self._upload(await request.post(), mask=False)

    async def upload_mask(self, request: web.Request) -> web.Response:
        return self._upload(await request.post(), mask=True)

    def _upload(self, form: Any, *, mask: bool) -> web.Response:
        field, kind = form.get("image"), form.get("type") or "input"
        base = self._paths.by_type(kind)
        if base is None:
            raise ValueError(f"no such folder: {kind}")
        if not isinstance(field, web.FileField) or not field.filename:
            return web.Response(status=400)
        subfolder = form.get("subfolder", "")
        folder = base / os.path.normpath(subfolder)
        if not is_inside(base, folder / field.filename):
            return web.Response(status=400)
        folder.mkdir(parents=True, exist_ok=True)
        data, path = field.file.read(), folder / field.filename
        if form.get("overwrite") not in ("true", "1"):
            path, duplicate = _free_name(path, data)
            if duplicate:
                return _stored(path.name, subfolder, kind)
        if mask:
            return self._store_mask(path, data, form, _stored(path.name, subfolder, kind))
        path.write_bytes(data)
        return _stored(path.name, subfolder, kind)

    def _store_mask(self, path: Path, data: bytes, form: Any, stored: web.Response) -> web.Response:
        """Write the original picture with the mask's alpha; an original that is not there is passed over in silence."""
        reference = json.loads(form.get("original_ref"))
        name, folder = self._paths.annotated(reference["filename"])
        if not name or name.startswith("/") or ".." in name:
            return web.Response(status=400)
        base = folder or self._paths.by_type(reference.get("type", "output"))
        if base is None:
            return web.Response(status=400)
        original_path = base / reference.get("subfolder", "") / Path(name).name
        if not is_inside(base, original_path):
            return web.Response(status=403)
        if original_path.is_file():
            with Image.open(original_path) as original, Image.open(io.BytesIO(data)) as mask:
                masked = original.convert("RGBA")
                masked.putalpha(mask.convert("RGBA").getchannel("A"))
                save_png(masked, path, None)
        return stored

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if "filename" not in query:
            return web.Response(status=404)
        name, base = self._paths.annotated(query["filename"])
        if not name or name.startswith("/") or ".." in name:
            return web.Response(status=400)
        base = base or self._paths.by_type(query.get("type", "output"))
        if base is None:
            return web.Response(status=400)
        folder = base / query.get("subfolder", "")
        if not is_inside(base, folder):
            return web.Response(status=403)
        path = folder / Path(name).name
        if not os.path.isfile(path):  # noqa: PTH113 - False, and no exception, for a name that is too long
            return web.Response(status=404)
        return self._render(path, query.get("preview"), query.get("channel"))

    def _render(self, path: Path, preview: str | None, channel: str | None) -> web.StreamResponse:
        if preview is not None:
            return _preview(path, preview, channel or "")
        if channel in ("rgb", "a"):
            return _channel(path, channel)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = {"Content-Disposition": f'filename="{path.name}"', "Content-Type": kind}
        if self._release.is_current:
            headers["X-Content-Type-Options"] = "nosniff"
        if kind in _UNSAFE_TYPES:
            headers["Content-Type"] = "application/octet-stream"
        if self._release.safe_views and kind in _UNSAFE_TYPES | _UNSAFE_SINCE_FIX:
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Disposition"] = f'attachment; filename="{path.name}"'
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = "no-store"
        return web.FileResponse(path, headers=headers)

    async def view_metadata(self, _request: web.Request) -> web.Response:
        # Only real safetensors files carry metadata, and there are none here.
        return web.Response(status=404)


def _free_name(path: Path, data: bytes) -> tuple[Path, bool]:
    """The name to store under, and whether the very same bytes are there already: `x.png`, `x (1).png`, ..."""
    digest, number, candidate = hashlib.sha256(data).hexdigest(), 1, path
    while candidate.exists():
        if file_sha256(candidate) == digest:
            return candidate, True
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
        number += 1
    return candidate, False


def _stored(name: str, subfolder: str, kind: str) -> web.Response:
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _preview(path: Path, preview: str, channel: str) -> web.Response:
    wanted, _, quality_text = preview.partition(";")
    # JPEG cannot show transparency, so a request for the alpha channel gets WebP too.
    kind = wanted if wanted in ("webp", "jpeg") and "a" not in channel else "webp"
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        shown = picture.convert("RGB") if kind == "jpeg" or channel == "rgb" else picture
        shown.save(buffer, format=kind.upper(), quality=int(quality_text) if quality_text.isdigit() else 90)
    return _picture(buffer, f"image/{kind}", path)


def _channel(path: Path, channel: str) -> web.Response:
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        if channel == "rgb":
            picture.convert("RGB").save(buffer, format="PNG")
        else:
            alpha = Image.new("RGBA", picture.size)
            alpha.putalpha(picture.convert("RGBA").getchannel("A"))
            alpha.save(buffer, format="PNG")
    return _picture(buffer, "image/png", path)


def _picture(buffer: io.BytesIO, kind: str, path: Path) -> web.Response:
    headers = {"Content-Disposition": f'filename="{path.name}"'}
    return web.Response(body=buffer.getvalue(), content_type=kind, headers=headers)
