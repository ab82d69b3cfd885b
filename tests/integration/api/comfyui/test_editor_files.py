"""The editor's files, where it is installed and where it is not, and the port of its own."""

from __future__ import annotations

import importlib
import socket
from pathlib import Path

import pytest
import requests

from api.contracts.comfyui import editor_files, template_files
from cli.commands.up import with_comfyui_port
from core.ledger.upgrade import migrate
from tests.integration.api_fixtures import gunicorn_api, running_api, settings_for
from tests.ports import free_port


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for the editor's package."""
    monkeypatch.setattr(editor_files, "PACKAGE", "stand_in_for_the_editor")
    static = tmp_path / "site" / "stand_in_for_the_editor" / "static"
    (static / "assets").mkdir(parents=True)
    (static.parent / "__init__.py").write_text("secret")
    (static / "index.html").write_text("<title>Editor</title>")
    (static / "assets" / "index-1.js").write_text("1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    return "stand_in_for_the_editor"


def test_its_files_are_served_and_nothing_beside(package: str, tmp_path: Path) -> None:
    assert package == editor_files.PACKAGE
    with running_api(settings_for(tmp_path / "api")) as api:
        index = api.get("/comfyui/")
        assert (index.text, index.headers["Cache-Control"]) == ("<title>Editor</title>", "private, no-cache")
        assert api.get("/comfyui", allow_redirects=False).headers["Location"] == "comfyui/"
        asset = api.get("/comfyui/assets/index-1.js")
        assert (asset.text, asset.headers["Content-Type"].partition(";")[0]) == ("1", "text/javascript")
        assert "max-age" in asset.headers["Cache-Control"]
        assert api.get("/comfyui/user.css").status_code == 200
        for path in ("none.js", "assets", "%2e%2e/__init__.py", "assets/..%2f..%2f__init__.py", "%2fetc%2fpasswd"):
            assert api.get(f"/comfyui/{path}").status_code == 404, path
        for path in ("i18n", "workflow_templates", "global_subgraphs", "node_replacements"):
            assert api.get(f"/comfyui/api/{path}").json() == {}
        names = [each["name"] for each in api.get("/comfyui/experiment/models").json()]
        assert "checkpoints" in names
        assert api.get("/comfyui/experiment/models/checkpoints").json() == []
        assert api.get("/comfyui/experiment/models/none").status_code == 404


def test_the_official_templates_are_served_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_files, "PACKAGES", "stand_in_for_templates")
    for package, name in (("stand_in_for_templates_json", "index.json"), ("stand_in_for_templates_media", "a-1.webp")):
        folder = tmp_path / "site" / package / "templates"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("secret")
        (folder / name).write_text("[]")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    with running_api(settings_for(tmp_path / "api")) as api:
        index = api.get("/comfyui/templates/index.json")
        assert (index.json(), index.headers["Content-Type"]) == ([], "application/json")
        assert api.get("/comfyui/api/templates/a-1.webp").headers["Content-Type"] == "image/webp"
        for path in ("none.json", "%2e%2e/__init__.py", "..%2f__init__.py"):
            assert api.get(f"/comfyui/templates/{path}").status_code == 404, path


def test_without_it_a_line_says_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor_files, "PACKAGE", "not_there_at_all")
    with running_api(settings_for(tmp_path)) as api:
        assert "comfyline[editor]" in api.get("/comfyui/").text
        assert api.get("/comfyui/index.html").status_code == 404


def test_a_port_that_is_taken_is_said_and_stops_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    migrate(settings)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        with gunicorn_api(settings, COMFYLINE_COMFYUI_PORT=str(taken)) as url:
            assert requests.get(f"{url}/comfyui/features", timeout=10).status_code == 200
        assert f"COMFYLINE_COMFYUI_PORT: port {taken} on 127.0.0.1" in (tmp_path / "gunicorn.log").read_text()
        left, advice = with_comfyui_port(settings.model_copy(update={"comfyui_port": taken}))
        assert left.comfyui_port is None
        assert advice is not None
        assert "is taken by another program" in advice


def test_one_that_is_free_is_used(tmp_path: Path) -> None:
    port = free_port()
    settings, advice = with_comfyui_port(settings_for(tmp_path, comfyui_port=port))
    assert (settings.comfyui_port, advice) == (port, None)
