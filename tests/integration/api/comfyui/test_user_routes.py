"""What is kept for users, what comes in, and what the server tells of itself."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from api.contracts.comfyui.fleet_routes import VERSION
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.makers import GRAPH
from tests.waiting import until


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        running.worker.come_up()
        yield running


def png(color: tuple[int, ...] = (1, 2, 3), size: tuple[int, int] = (4, 4)) -> bytes:
    target = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(target, "PNG")
    return target.getvalue()


def upload(api: Api, content: bytes, name: str = "a.png", route: str = "image", **fields: str) -> requests.Response:
    return api.post(f"/comfyui/upload/{route}", files={"image": (name, content)}, data=fields)


class TestUserdata:
    def test_the_life_of_a_workflow(self, api: Api) -> None:
        path = "/comfyui/userdata/workflows%2Flife%2Fa.json"
        assert api.get(path).status_code == 404
        made = api.post(f"{path}?overwrite=false&full_info=true", data=b'{"nodes": []}')
        assert made.status_code == 200
        assert (made.json()["path"], made.json()["size"]) == ("workflows/life/a.json", 13)
        assert api.post(f"{path}?overwrite=false", data=b"x").status_code == 409
        assert api.post(path, data=b"[]").json() == "workflows/life/a.json"
        got = api.get(path)
        assert (got.content, got.headers["X-Content-Type-Options"]) == (b"[]", "nosniff")
        assert api.post(f"{path}/move/workflows%2Flife%2Fb.json").json() == "workflows/life/b.json"
        assert api.get("/comfyui/userdata?dir=workflows&recurse=true").json() == ["life/b.json"]
        assert api.get("/comfyui/userdata?dir=workflows/life&split=true").json() == [["b.json", "b.json"]]
        assert api.get("/comfyui/userdata?dir=workflows").json() == []
        [info] = api.get("/comfyui/userdata?dir=workflows&recurse=true&full_info=true").json()
        assert (info["path"], info["size"]) == ("life/b.json", 2)
        assert api.get("/comfyui/userdata").status_code == 400
        listed = api.get("/comfyui/v2/userdata?path=workflows").json()
        assert listed[0] == {"name": "life", "path": "workflows/life", "type": "directory"}
        assert {name: listed[1][name] for name in ("name", "path", "type", "size")} == (
            {"name": "b.json", "path": "workflows/life/b.json", "type": "file", "size": 2}
        )
        assert [each["path"] for each in api.get("/comfyui/v2/userdata").json()][:2] == ["workflows/life", "workflows"]
        assert api.get("/comfyui/v2/userdata?path=none").status_code == 404
        gone = "/comfyui/userdata/workflows%2Flife%2Fb.json"
        assert [api.session.delete(api.url + gone).status_code for _ in range(2)] == [204, 404]
        assert api.get("/comfyui/userdata?dir=workflows").status_code == 404

    @pytest.mark.parametrize("path", ["%2e%2e%2fx", "a%2F%2E%2E%2Fb", "%2Fetc%2Fpasswd", "a%00b"])
    def test_no_path_leads_out(self, api: Api, path: str) -> None:
        # Two slashes after each other meet no route that keeps anything: 405.
        assert api.post(f"/comfyui/userdata/{path}", data=b"x").status_code in (400, 404, 405)
        assert api.get(f"/comfyui/userdata/{path}").status_code in (400, 404)
        assert api.get("/comfyui/userdata/etc%2Fpasswd").status_code == 404

    def test_what_is_too_large_is_refused(self, api: Api) -> None:
        answer = api.post("/comfyui/userdata/large", data=bytes(9 * 1024 * 1024))
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "payload_too_large")


def test_settings_are_merged(api: Api) -> None:
    first = {"Comfy.TutorialCompleted": True}
    assert api.get("/comfyui/settings").json() == first
    assert api.post("/comfyui/settings", {"a": 1, "b": {"c": 2}}).status_code == 200
    assert api.post("/comfyui/settings/a.b", data=b"true").status_code == 200
    assert api.get("/comfyui/settings").json() == {**first, "a": 1, "b": {"c": 2}, "a.b": True}
    assert [api.get(f"/comfyui/settings/{name}").json() for name in ("a.b", "none")] == [True, None]
    assert api.get("/comfyui/userdata/comfy.settings.json").json()["a"] == 1


class TestFiles:
    def test_an_upload_has_a_name_for_graphs(self, api: Api) -> None:
        first = upload(api, png(), "my room.png", subfolder="pasted").json()
        assert first == {"name": "my_room.png", "subfolder": "", "type": "input"}
        assert upload(api, png(), "my room.png", overwrite="true").json() == first
        assert upload(api, png((9, 9, 9)), "my room.png").json()["name"] == "my_room_1.png"
        view = api.get("/comfyui/view", params={"filename": "my_room.png", "type": "input"})
        assert view.content == png()
        assert api.get("/comfyui/view", params={"filename": "my_room.png [input]"}).content == png()
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": "my_room.png [input]"}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
        answer = api.post("/comfyui/prompt", {"prompt": graph})
        assert answer.status_code == 200, answer.text

    def test_a_mask_is_the_alpha_of_its_picture(self, api: Api) -> None:
        name = upload(api, png((50, 60, 70)), "original.png").json()["name"]
        reference = json.dumps({"filename": name, "type": "input", "subfolder": ""})
        made = upload(api, png((0, 0, 0, 99)), "mask.png", "mask", original_ref=reference).json()
        view = api.get("/comfyui/view", params={"filename": made["name"], "type": made["type"]})
        with Image.open(io.BytesIO(view.content)) as picture:
            assert picture.getpixel((0, 0)) == (50, 60, 70, 99)
        missing = json.dumps({"filename": "none.png"})
        assert upload(api, png(), "mask.png", "mask", original_ref=missing).status_code == 404
        assert upload(api, png(), "mask.png", "mask").status_code == 400

    def test_what_is_no_upload_is_refused(self, api: Api) -> None:
        assert upload(api, png(), "../a.png").status_code == 400
        assert upload(api, png(), "a.png", subfolder="../..").status_code == 400
        assert api.post("/comfyui/upload/image", files={"other": ("a.png", png())}).status_code == 400

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("", 404),
            ("filename=none.png", 404),
            ("filename=../a.png", 400),
            ("filename=/etc/passwd", 400),
            ("filename=a.png&type=models", 400),
            ("filename=a.png&subfolder=../..", 404),
            ("filename=a.png&type=input&subfolder=%00", 404),
        ],
    )
    def test_what_is_not_there_is_not_shown(self, api: Api, query: str, status: int) -> None:
        assert api.get(f"/comfyui/view?{query}").status_code == status

    def test_a_picture_in_another_form(self, api: Api) -> None:
        prompt_id = api.post("/comfyui/prompt", {"prompt": GRAPH}).json()["prompt_id"]
        api.worker.run(prompt_id, png((1, 2, 3, 4)))
        item = {"filename": "a_00000_.png", "subfolder": prompt_id}
        shown = api.get("/comfyui/view", params={**item, "preview": "jpeg;50"})
        assert (shown.headers["Content-Type"], Image.open(io.BytesIO(shown.content)).format) == ("image/jpeg", "JPEG")
        alpha = Image.open(io.BytesIO(api.get("/comfyui/view", params={**item, "channel": "a"}).content))
        assert alpha.getpixel((0, 0)) == (0, 0, 0, 4)


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("object_info/SaveImage", "SaveImage"),
        ("features", "supports_preview_metadata"),
        ("system_stats", "devices"),
        ("users", "storage"),
    ],
)
def test_what_the_server_tells(api: Api, path: str, holds: str) -> None:
    for prefix in ("/comfyui", "/comfyui/api"):
        assert holds in api.get(f"{prefix}/{path}").json()


def test_every_instance_counts(api: Api, tmp_path: Any) -> None:
    with running_api(settings_for(tmp_path)) as several:
        assert several.get("/comfyui/object_info").json() == {}
        loader = {"input": {"required": {"ckpt_name": [["a.safetensors"], {}]}}, "output_node": False}
        other = {"input": {"required": {"ckpt_name": [["b.safetensors"], {}]}}, "output_node": False}
        told = [{"new_node_id": "Own", "old_node_id": "Gone"}]
        gone = {"input": {}, "replaced_by": "Own", "replacements": told}
        several.worker.come_up("gpu0@test", {"CheckpointLoaderSimple": loader, "Own": {"input": {}}, "Gone": gone})
        several.worker.come_up("gpu1@test", {"CheckpointLoaderSimple": other, "Own": {"input": {}}})

        def known() -> bool:
            return bool(several.get("/comfyui/models/checkpoints").json() == ["a.safetensors", "b.safetensors"])

        until(known, what="the catalogues")
        assert list(several.get("/comfyui/object_info").json()) == ["CheckpointLoaderSimple", "Own"]
        assert several.get("/comfyui/node_replacements").json() == {"Gone": told}
        assert several.get("/comfyui/features").json()["node_replacements"]
        assert several.get("/comfyui/models/nope").status_code == 404
        assert "checkpoints" in several.get("/comfyui/models").json()
        stats = several.get("/comfyui/system_stats").json()
        assert {device["comfyui_version"] for device in stats["devices"]} == {"0.3.64"}
        # What is spoken here, whoever is up.
        assert stats["system"]["comfyui_version"] == VERSION
    assert [api.get(f"/comfyui/{path}").json() for path in ("embeddings", "extensions")] == [[], []]
