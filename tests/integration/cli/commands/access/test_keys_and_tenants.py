"""Keys and tenants from the command line: from an open server to one where each asks for its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cli.exit_codes import EXIT_OK, EXIT_USAGE
from cli.main import run
from core.records.tenant_limits import TenantLimits
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.waiting import eventually


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"))) as running:
        monkeypatch.setenv("COMFY_BASE_URL", running.url)
        yield running


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == EXIT_OK, capsys.readouterr().err
    return capsys.readouterr().out.strip()


def test_from_an_open_server_to_keys_of_tenants(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = said(capsys, "keys", "create", "root", "--scope", "admin", "--scope", "read")
    assert root.startswith("comfyline_")
    assert eventually(lambda: api.get("/api/v2/jobs").status_code == 401)
    assert run(["keys", "list"]) == EXIT_USAGE
    assert "An API key is needed" in capsys.readouterr().err

    monkeypatch.setenv("COMFY_API_KEY", root)
    assert said(capsys, "tenants", "create", "acme", "--weight", "2") == "acme  made"
    assert [row.split("\t")[:2] for row in said(capsys, "tenants", "list").splitlines()] == [
        ["acme", "2"],
        ["default", "1"],
    ]
    assert said(capsys, "tenants", "weigh", "acme", "3") == "acme  changed"
    assert api.ledger.tenants.get("acme").weight == 3

    given = ("--max-waiting", "10", "--max-kept-bytes", "unlimited", "--max-gpu-s-per-day", "1.5")
    assert said(capsys, "tenants", "set", "acme", *given) == "acme  changed"
    said(capsys, "tenants", "set", "acme", "--max-gpu-s-per-day", "default", "--weight", "3")
    acme = api.ledger.tenants.get("acme")
    assert (acme.weight, acme.limits) == (3, TenantLimits(max_waiting=10, max_kept_bytes=-1))
    assert said(capsys, "tenants", "list").splitlines()[0].split("\t")[:-1] == ["acme", "3", "0/10", "0", "", "0", "0"]
    first = said(capsys, "limits").splitlines()[0]
    assert first.split("\t") == ["waiting", "0", "-", "-"], "of the tenant of the key"

    more = ("--max-priority", "5", "--template", "sd3", "--pool", "small", "--ends-in", "3600")
    made = json.loads(said(capsys, "keys", "create", "ci", "--tenant", "acme", "--scope", "read", *more, "--json"))
    key = api.ledger.keys.get(made["id"])
    assert (key.tenant, key.name, key.scopes) == ("acme", "ci", ("read",))
    assert (key.limits.max_priority, key.limits.templates, key.limits.pools) == (5, ("sd3",), ("small",))
    assert key.ends_at_ms == key.created_at_ms + 3_600_000

    second = said(capsys, "keys", "rotate", key.id)
    assert second not in (made["secret"], root)
    assert api.ledger.keys.get(key.id).secrets == 2
    rows = said(capsys, "keys", "list", "--tenant", "acme").splitlines()
    assert [row.split("\t")[:3] for row in rows] == [[key.id, "acme", "ci"]]
    assert made["secret"] not in said(capsys, "keys", "list", "--json")

    said(capsys, "keys", "revoke", key.id)
    for secret in (made["secret"], second):
        assert eventually(lambda: status_of(api, secret) == 401)  # noqa: B023 - asked at once
    assert status_of(api, root) == 200
    assert "revoked" in said(capsys, "keys", "list", "--tenant", "acme")


def status_of(api: Api, secret: str) -> int:
    return api.get("/api/v2/jobs", headers={"X-API-Key": secret}).status_code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tenants", "create", "Acme!"), "name must"),
        (("tenants", "create", "default"), "There is a tenant default already"),
        (("tenants", "weigh", "nobody", "1"), "There is no tenant nobody"),
        (("tenants", "set", "nobody", "--max-waiting", "1"), "There is no tenant nobody"),
        (("tenants", "set", "default"), "Say what is to change"),
        (("tenants", "set", "default", "--max-waiting", "-1"), "-1 is no limit"),
        (("tenants", "set", "default", "--max-kept-bytes", "nan"), "nan is no limit"),
        (("tenants", "set", "default", "--max-running", "1.5"), "max_running must be an integer from 0"),
        (("tenants", "create", "x", "--max-waiting", "1e30"), "is out of range"),
        (("keys", "create", "x", "--scope", "fly"), "fly"),
        (("keys", "create", "x", "--scope", "read", "--tenant", "nobody"), "There is no tenant nobody"),
        (("keys", "create", "x", "--scope", "submit", "--template", "text2imag"), "nearest: text2image"),
        (("keys", "create", "x", "--scope", "submit", "--template", "qqqq"), "there are: flux, image2image"),
        (("keys", "rotate", "nobody"), "There is no key nobody"),
        (("keys", "revoke", "nobody"), "There is no key nobody"),
    ],
)
def test_what_cannot_be_is_said(
    api: Api,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    assert run(arguments) == EXIT_USAGE
    assert words in capsys.readouterr().err
