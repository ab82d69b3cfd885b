"""The manifest of model files over HTTP and on the command line."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cli.main import run
from core.records.model_file import ModelCopy
from tests.integration.api_fixtures import Api, running_api, settings_for

KEY = "operator-key"
PATH = "/api/v2/model-files"
HASH = "0123456789abcdef" * 4
ENTRY = {"path": "checkpoints/sub/x.safetensors", "source": "https://models.example/x", "sha256": HASH}
MANIFEST = f"""
[[model_files]]
path = "checkpoints/a.safetensors"
source = "https://models.example/a"
sha256 = "{HASH.upper()}"
size_bytes = 6_900_000_000
pools = ["h100"]

[[model_files]]
path = "loras/b.safetensors"
source = "hf://owner/name@main/b.safetensors"
tags = ["style"]
token = "hub"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), api_keys=(KEY,))) as running:
        running.session.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture
def api(server: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server with an empty manifest, which the command line talks to."""
    for entry in server.ledger.manifest.all():
        server.ledger.manifest.remove(entry.path)
    monkeypatch.setenv("COMFY_BASE_URL", server.url)
    monkeypatch.setenv("COMFY_API_KEY", KEY)
    return server


def post(api: Api, *entries: dict[str, Any]) -> requests.Response:
    return api.post(PATH, {"model_files": list(entries)})


def test_entries_are_entered_shown_and_forgotten(api: Api) -> None:
    answer = post(api, {**ENTRY, "sha256": HASH.upper(), "pools": ["a", "a", "b"]})
    assert answer.status_code == 200, answer.text
    [entry] = answer.json()["model_files"]
    assert (entry["sha256"], entry["pools"], entry["tags"], entry["token"]) == (HASH, ["a", "b"], [], None)
    assert api.get(PATH).json() == {"model_files": [entry]}
    assert api.get(f"{PATH}/{ENTRY['path']}").json() == entry

    assert api.session.delete(f"{api.url}{PATH}/{ENTRY['path']}", timeout=5).json() == {"removed": ENTRY["path"]}
    for method in ("GET", "DELETE"):
        answer = api.session.request(method, f"{api.url}{PATH}/{ENTRY['path']}", timeout=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_all_are_entered_or_none(api: Api) -> None:
    answer = post(api, ENTRY, {**ENTRY, "path": "checkpoints/../../x.safetensors"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert "checkpoints/../../x.safetensors" in answer.json()["error"]["message"]
    assert post(api, ENTRY, ENTRY).status_code == 422
    assert api.get(PATH).json() == {"model_files": []}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": None}, "sha256 is missing"),
        ({"path": "checkpoints/x.ckpt"}, "COMFYLINE_MODELS_ALLOW_CODE"),
        ({"source": "http://models.example/x"}, "COMFYLINE_MODELS_ALLOW_HTTP"),
        ({"url": "https://models.example/x"}, "source"),
        ({"size_bytes": "7"}, "size_bytes must be"),
        ({"surprise": 1}, "Unknown field 'model_files.0.surprise'"),
        ({"path": "checkpoints/\u0000.safetensors"}, "path"),
    ],
)
def test_what_is_refused_says_what_is_allowed(api: Api, changes: dict[str, Any], words: str) -> None:
    answer = post(api, {**ENTRY, **changes})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]


def test_odd_paths_are_just_not_there(api: Api) -> None:
    for path in ("none", "%00", "a%0Ab", "x" * 2000, "..%2f..%2fetc", "%F0%9F%98%80"):
        assert api.get(f"{PATH}/{path}").status_code == 404, path


def test_nobody_looks_or_enters_without_a_key(api: Api) -> None:
    for method, path in (("GET", PATH), ("POST", PATH), ("GET", f"{PATH}/a/b"), ("DELETE", f"{PATH}/a/b")):
        assert requests.request(method, api.url + path, timeout=5).status_code == 401


def test_a_settings_word_opens_http_and_pickles(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, models_allow_http=True, models_allow_code=True)
    with running_api(settings) as api:
        assert post(api, {**ENTRY, "path": "a/x.pth", "source": "http://10.0.0.1/x"}).status_code == 200


def test_the_command_line_goes_the_whole_way(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.toml"
    file.write_text(MANIFEST)
    assert run(["models", "import", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "checkpoints/a.safetensors  entered",
        "loras/b.safetensors  entered",
    ]
    lora = "loras/b.safetensors"
    api.ledger.copies.put(ModelCopy(host="one", path=lora, state="ready"))
    api.ledger.copies.put(ModelCopy(host="two", path=lora, state="fetching"))
    assert run(["models", "list"]) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["checkpoints/a.safetensors", "6.9 GB", "pool h100", "-", "https://models.example/a"],
        ["loras/b.safetensors", "-", "tag style", "one, fetching on two", "hf://owner/name@main/b.safetensors"],
    ]
    added = ["models", "add", "vae/c.sft", "s3://bucket/c", "--sha256", HASH, "--size", "7", "--tag", "t", "--json"]
    assert run(added) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert (entry["path"], entry["size_bytes"], entry["tags"]) == ("vae/c.sft", 7, ["t"])
    assert run(["models", "show", "loras/b.safetensors"]) == 0
    assert "hub" in capsys.readouterr().out
    assert run(["models", "remove", "loras/b.safetensors", "vae/c.sft"]) == 0
    assert [entry.path for entry in api.ledger.manifest.all()] == ["checkpoints/a.safetensors"]
    assert run(["models", "remove", "loras/b.safetensors"]) == 2
    assert "loras/b.safetensors" in capsys.readouterr().err


def test_a_manifest_may_be_yaml(api: Api, tmp_path: Path) -> None:
    for suffix in (".yaml", ".YML"):
        file = tmp_path / f"models{suffix}"
        file.write_text(
            f"model_files:\n  - path: a/2026-11-30{suffix}.safetensors\n    source: https://models.example/a\n"
            f"    sha256: {HASH}\n    size_bytes: 7\n    tags: [2026-11-30]\n"
        )
        assert run(["models", "import", str(file)]) == 0
    found = api.ledger.manifest.all()
    assert sorted(entry.path for entry in found) == [
        "a/2026-11-30.YML.safetensors",
        "a/2026-11-30.yaml.safetensors",
    ]
    assert {(entry.size_bytes, tuple(entry.tags)) for entry in found} == {(7, ("2026-11-30",))}


def test_tokens_are_entered_listed_by_name_and_never_told(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_0123456789"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{secret}\n"))
    assert run(["models", "tokens", "set", "hub"]) == 0
    assert run(["models", "tokens", "list"]) == 0
    told = capsys.readouterr().out
    assert re.fullmatch(r"hub  entered\nhub\t20[-0-9T:.]+Z\n", told), told
    assert api.ledger.model_tokens.open("hub") == secret
    listed = requests.get(f"{api.url}/api/v2/model-tokens", headers={"X-API-Key": KEY}, timeout=5)
    assert [token["name"] for token in listed.json()["model_tokens"]] == ["hub"]
    assert secret not in listed.text
    assert run(["models", "tokens", "remove", "hub"]) == 0
    assert run(["models", "tokens", "remove", "hub"]) == 2
    assert "no token hub" in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "two words", "a\u00f6", "x" * 4097, 3, None])
def test_what_is_no_token_is_refused_and_not_repeated(api: Api, token: object) -> None:
    path = f"{api.url}/api/v2/model-tokens/hub"
    answer = requests.put(path, json={"token": token}, headers={"X-API-Key": KEY}, timeout=5)
    assert answer.status_code == 422
    assert "token must be text of 1 to 4096 printable ASCII characters" in answer.json()["error"]["message"]
    assert "two words" not in answer.text
    named = requests.put(
        f"{api.url}/api/v2/model-tokens/a%20b", json={"token": "x"}, headers={"X-API-Key": KEY}, timeout=5
    )
    assert named.status_code == 422
    assert api.ledger.model_tokens.names() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_files: [", "is no YAML"),
        ("model_files: [\x01]", "is no YAML"),
        ("a: &a [x]\nmodel_files: [*a]", "line 2: aliases (*name) are not read"),
        ("model_files: [{path: !!binary aGk=}]", "is no YAML"),
        ("model_files: !!python/object/apply:os.getcwd []", "is no YAML"),
        ("- path: x", "must hold a list model_files"),
        ("", "must hold a list model_files"),
        ("model_files: [{path: x}]\n3: x", "not 3"),
        ("model_files: [{path: 3, source: x}]", "model_files.0.path must be text of at most 400 characters, not 3."),
    ],
)
def test_files_that_are_no_yaml_manifest(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    assert run(["models", "import", str(file)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) <= 2
    assert api.ledger.manifest.all() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[model_files", "is no TOML"),
        ("a = 1", "[[model_files]]"),
        ("", "[[model_files]]"),
        ('[[model_files]]\npath = "x"\n[other]\n', "not other"),
        ('[[model_files]]\npath = "checkpoints/x.safetensors"\n', "model_files.0.source is missing: it must be text"),
        (
            '[[model_files]]\npath = 3\nsource = "x"\n',
            "model_files.0.path must be text of at most 400 characters, not 3.",
        ),
        ('[[model_files]]\npath = "a/x"\nsource = "x"\ncolour = 1\n', "there are: path, source, sha256"),
    ],
)
def test_files_that_are_no_manifest(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    assert run(["models", "import", str(file)]) == 2
    assert words in capsys.readouterr().err
    assert api.ledger.manifest.all() == []
