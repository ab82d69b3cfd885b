"""Settings: what an operator may write, and that whatever cannot be meant stops the start with its name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from cli.local.data_dir import make_data_dir
from core.broker_kind import BrokerKind
from core.errors import ConfigurationError
from core.settings import Settings, load_settings
from core.settings.settings import LONGEST_SOCKET_PATH
from core.settings.socket_folder import make_socket_folder
from core.startup import SET_VARIABLE
from tests.services import make_settings


def test_defaults_need_no_environment() -> None:
    settings = load_settings()

    assert settings.data_dir == Path.cwd() / ".comfyline"
    assert settings.ledger_url == f"sqlite:///{Path.cwd()}/.comfyline/ledger.db"
    assert settings.has_embedded_broker
    assert settings.transport_url.startswith("redis+socket://")


@pytest.mark.parametrize("name", ["COMFYLINE_DATABSE_URL", "COMFYLINE_", "COMFYLINE_GPU", "COMFYLINE_TESTS"])
def test_an_unknown_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(ConfigurationError, match=rf"^{name} "):
        load_settings()


@pytest.mark.parametrize("value", ["http://a.example", "a.example:80", "[::1]", "*.example", "a b", "a,-b"])
def test_a_name_that_no_host_header_has_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_ALLOWED_HOSTS", value)

    with pytest.raises(ConfigurationError, match=r"^COMFYLINE_ALLOWED_HOSTS: .* leave out scheme, port"):
        load_settings()


def test_names_and_addresses_for_the_host_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_ALLOWED_HOSTS", "API, a-b.Example ,192.0.2.7,fd00::2,*")

    assert load_settings().allowed_hosts == ("api", "a-b.example", "192.0.2.7", "fd00::2", "*")


def test_origins_are_read_as_browsers_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "https://App.example.com/, http://localhost:5173,https://a.example:443, http://[::1]:8080"
    monkeypatch.setenv("COMFYLINE_CORS_ORIGINS", told)

    wanted = ("https://app.example.com", "http://localhost:5173", "https://a.example", "http://[::1]:8080")
    assert load_settings().cors_origins == wanted


@pytest.mark.parametrize(
    "value",
    ["*", "null", "app.example.com", "https://*.example.com", "https://a.example/app", "ftp://a", "https://a:x"],
)
def test_what_is_no_origin_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_CORS_ORIGINS", value)

    with pytest.raises(ConfigurationError, match=r"COMFYLINE_CORS_ORIGINS.*is no origin"):
        load_settings()


def test_names_of_the_test_suite_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_TEST_ANYTHING", "1")

    load_settings()


def test_what_marks_the_processes_of_a_set_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SET_VARIABLE, "1")

    load_settings()


@pytest.mark.parametrize("name", ["COMFYLINE_WEBHOOK_URL", "COMFYLINE_WEBHOOK_TIMEOUT_S", "COMFYLINE_COMFY_API_KEY"])
def test_a_prefix_where_the_setting_has_none_is_refused_not_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "30")

    with pytest.raises(ConfigurationError, match=rf"^{name} "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMFYLINE_API_PORT", "eighty"),
        ("COMFYLINE_API_PORT", "0"),
        ("COMFYLINE_API_PORT", "65536"),
        ("COMFYLINE_LEASE_S", "0"),
        ("COMFYLINE_LEASE_S", "nan"),
        ("COMFYLINE_MAX_ATTEMPTS", "1.5"),
        ("COMFYLINE_MAX_JSON_DEPTH", "7"),
        ("COMFYLINE_OUTPUT_RETENTION_S", "604801"),
        ("COMFYLINE_CA_BUNDLE", "/no/such.pem"),
        ("COMFYLINE_CA_BUNDLE", __file__),
        ("S3_KEY_TEMPLATE", "{prefix}"),
        ("S3_ADDRESSING", "by-name"),
        ("WEBHOOK_TIMEOUT", "soon"),
        ("WEBHOOK_TIMEOUT", "301"),
    ],
)
def test_a_malformed_value_is_refused_with_its_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=rf"^{name}: .*{value}"):
        load_settings()


def test_every_malformed_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_API_PORT", "x")
    monkeypatch.setenv("COMFYLINE_LEASE_S", "y")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert "COMFYLINE_API_PORT" in str(caught.value)
    assert "COMFYLINE_LEASE_S" in str(caught.value)


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_API_PORT", "")

    assert load_settings().api_port == 8000


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a", ("a",)), ("a,b", ("a", "b")), (" a , ,b,", ("a", "b")), (",", ())],
)
def test_lists_are_separated_by_commas(text: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_API_KEYS", text)
    monkeypatch.setenv("COMFYLINE_GPUS", text)
    urls = tuple(f"http://{part}" for part in parts)
    monkeypatch.setenv("COMFYLINE_COMFYUI_URLS", text.replace("a", "http://a").replace("b", "http://b"))

    settings = load_settings()

    assert (settings.api_keys, settings.gpus, settings.comfyui_urls) == (parts, parts, urls)


def test_a_secret_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "keys"
    secret.write_text("one,two\n")
    monkeypatch.setenv("COMFYLINE_API_KEYS_FILE", str(secret))

    assert load_settings().api_keys == ("one", "two")
    # Child processes would inherit it.
    assert "COMFYLINE_API_KEYS" not in os.environ


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_SECRET_KEY_FILE", str(tmp_path / "absent"))

    with pytest.raises(ConfigurationError, match=r"^COMFYLINE_SECRET_KEY_FILE=.*absent cannot be read"):
        load_settings()


def test_a_file_for_what_is_no_secret_is_refused_not_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "port"
    port.write_text("9000")
    monkeypatch.setenv("COMFYLINE_API_PORT_FILE", str(port))

    with pytest.raises(ConfigurationError, match=r"^COMFYLINE_API_PORT_FILE "):
        load_settings()


def test_names_of_the_generate_contract_keep_their_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_URL", "https://hooks.example/x")
    monkeypatch.setenv("WEBHOOK_TIMEOUT", "12.5")

    settings = load_settings()

    assert settings.webhook_url == "https://hooks.example/x"
    assert settings.webhook_timeout_s == 12.5


def test_names_of_the_official_client_keep_their_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", "http://fleet.example")
    monkeypatch.setenv("COMFY_API_KEY", "key")

    settings = load_settings()

    assert settings.comfy_base_url == "http://fleet.example"
    assert settings.comfy_api_key.get_secret_value() == "key"


def test_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_API_PORT", "9000")
    monkeypatch.setenv("WEBHOOK_URL", "https://environment.example")

    settings = load_settings(api_port=9001, webhook_url="https://override.example")

    assert settings.api_port == 9001
    assert settings.webhook_url == "https://override.example"


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="API_PROT"):
        load_settings(api_prot=1)


def test_settings_never_change(settings: Settings) -> None:
    with pytest.raises(ValidationError):
        settings.api_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEBHOOK_SECRET", "good,whsec_not!base64"), ("COMFYLINE_WEBHOOK_SIGNING_KEY", "bm90IDMyIGJ5dGVz")],
)
def test_a_malformed_key_for_webhooks_stops_the_start_and_is_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^{name} must ") as caught:
        load_settings()
    assert not any(part in caught.value.message for part in value.split(","))


def test_secrets_do_not_show(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, secret_key="c2VjcmV0", flower_basic_auth="ann:pass", comfy_api_key="sk-1")

    shown = repr(settings)

    assert not any(secret in shown for secret in ("c2VjcmV0", "ann:pass", "sk-1"))


def test_the_embedded_broker_listens_in_the_data_directory(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="")

    assert settings.embedded_broker_socket == tmp_path / "data" / "broker.sock"


def test_a_socket_path_too_long_for_the_kernel_moves_elsewhere(tmp_path: Path) -> None:
    deep, deeper = (make_settings(tmp_path / ("d" * count), broker_url="") for count in (100, 101))
    for settings in (deep, deeper):
        settings.make_data_dir()
    folders = [make_socket_folder(settings.data_dir) for settings in (deep, deeper)]

    assert [settings.embedded_broker_socket.parent for settings in (deep, deeper)] == folders
    assert len(str(deep.embedded_broker_socket)) <= LONGEST_SOCKET_PATH
    assert make_socket_folder(deep.data_dir) == folders[0] != folders[1]
    assert folders[0].stat().st_mode & 0o777 == 0o700
    for folder in folders:
        folder.rmdir()


def test_a_socket_is_never_looked_for_in_a_directory_that_others_have(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / ("d" * 100), broker_url="")
    settings.make_data_dir()
    assert not settings.embedded_broker_socket.parent.is_relative_to(tempfile.gettempdir()) or (
        settings.embedded_broker_socket.parent == settings.data_dir
    ), "before the broker has made one, there is none"
    first = make_socket_folder(settings.data_dir)
    first.chmod(0o777)

    # As if the directory had been swept, and somebody had made one of that name.
    assert settings.embedded_broker_socket.parent == settings.data_dir
    second = make_socket_folder(settings.data_dir)
    assert second != first
    assert settings.embedded_broker_socket.parent == second
    first.rmdir()
    second.rmdir()
    assert make_socket_folder(settings.data_dir) == second, "swept: processes that run know it by this name"
    second.rmdir()


def test_the_socket_url_survives_awkward_characters(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "a b#c?d%e", broker_url="")

    assert settings.transport_url.count("?") == 0
    assert settings.transport_url.count("#") == 0


def test_a_broker_that_is_named_is_used(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="amqp://guest@h//")

    assert not settings.has_embedded_broker
    assert settings.transport_url == "amqp://guest@h//"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COMFYLINE_COMFYUI_URLS", "notaurl"),
        ("COMFYLINE_COMFYUI_URLS", "http://a:8188,http://a:8188"),
        ("COMFYLINE_GPUS", "0,0"),
        ("COMFYLINE_BROKER_URL", "foo://x"),
        ("COMFYLINE_LEASE_RENEW_S", "15"),
    ],
)
def test_values_that_could_not_work_stop_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=name):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("COMFYLINE_DATABASE_URL", "ftp://x", "postgresql://user:password@host:5432/name"),
        ("COMFYLINE_DATABASE_URL", "postgres", "postgresql://user:password@host:5432/name"),
        ("COMFYLINE_DATABASE_URL", "sqlite://", "sqlite:////path/ledger.db"),
        ("COMFYLINE_DATABASE_URL", "  ", "must have no spaces around it"),
        ("COMFYLINE_DATABASE_URL", "postgresql://h/d ", "must have no spaces around it"),
        ("COMFYLINE_DATABASE_URL", "postgresql://h/d\nx", "no line breaks"),
        ("COMFYLINE_BROKER_URL", "ftp://x", "redis://"),
        ("COMFYLINE_BROKER_URL", "redis://host:notaport/0", "must look like redis://host:6379/0"),
        ("COMFYLINE_BROKER_URL", "amqp://[", "must look like redis://host:6379/0"),
        ("COMFYLINE_BROKER_URL", "redis://h\n/0", "no line breaks"),
        ("COMFYLINE_BROKER_URL", "redis://h/0 ", "must have no spaces around it"),
        ("COMFYLINE_STORAGE_URL", "s3://", "s3://bucket/prefix"),
        ("COMFYLINE_STORAGE_URL", "s3:///x", "s3://bucket/prefix"),
        ("COMFYLINE_STORAGE_URL", "s3://bucket with space", "s3://bucket/prefix"),
        ("COMFYLINE_STORAGE_URL", "ftp://x", "s3://bucket/prefix"),
        ("COMFYLINE_STORAGE_URL", "s3://bucket/x  ", "must have no spaces around it"),
        ("COMFYLINE_STORAGE_URL", "s3://bucket/x\ny", "no line breaks"),
    ],
)
def test_a_url_of_nothing_is_refused_with_how_it_should_look(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as refused:
        load_settings()

    assert str(refused.value).startswith(f"{name}: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_control_character_from_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://h/d\0x")
    monkeypatch.setenv("COMFYLINE_DATABASE_URL_FILE", str(tmp_path / "url"))

    with pytest.raises(ConfigurationError, match=r"^COMFYLINE_DATABASE_URL: .*control characters"):
        load_settings()


def test_the_data_directory_is_for_its_user_alone(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "new")
    settings.make_data_dir()

    assert settings.data_dir.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h:6379/0", BrokerKind.REDIS),
        ("rediss://h/1", BrokerKind.REDIS),
        ("", BrokerKind.REDIS),
        ("amqp://guest@h//", BrokerKind.RABBITMQ),
        ("amqps://guest@h//", BrokerKind.RABBITMQ),
    ],
)
def test_every_broker_that_is_accepted_has_a_kind(tmp_path: Path, url: str, kind: BrokerKind) -> None:
    assert BrokerKind.of(make_settings(tmp_path, broker_url=url).transport_url) is kind


def test_redis_sentinel_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_BROKER_URL", "sentinel://a:26379;sentinel://b:26379")

    with pytest.raises(
        ConfigurationError, match=r"COMFYLINE_BROKER_URL: cannot be Redis Sentinel; name the Redis itself"
    ):
        load_settings()


def test_a_setting_by_its_former_name_is_refused_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_API_PORT", "8001")

    with pytest.raises(ConfigurationError, match="FLEET_API_PORT is now called COMFYLINE_API_PORT"):
        load_settings()


def test_all_former_names_are_said_at_once_and_what_was_none_gets_no_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLEET_SECRET_KEY_FILE", "FLEET_API_PORT", "FLEET_URL"):
        monkeypatch.setenv(name, "x")

    with pytest.raises(ConfigurationError) as refused:
        load_settings()

    assert str(refused.value) == (
        "FLEET_API_PORT is now called COMFYLINE_API_PORT. "
        "FLEET_SECRET_KEY_FILE is now called COMFYLINE_SECRET_KEY_FILE. "
        "FLEET_URL is not a setting of Comfyline, whose settings begin with COMFYLINE_; see docs/settings.md. "
        "The project has taken another name."
    )


def test_the_data_of_a_release_of_the_former_name_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fleet").mkdir()

    with pytest.raises(ConfigurationError, match=r"mv \.fleet \.comfyline"):
        make_data_dir(load_settings())
    (tmp_path / ".fleet").rename(tmp_path / ".comfyline")

    make_data_dir(load_settings())
