"""Whether `comfyline up` starts a Prometheus, and with what; without one installed it says nothing."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.local.prometheus import RULES, LocalPrometheus, find_prometheus
from core.errors import ConfigurationError
from core.settings import load_settings
from tests.paths import ROOT
from tests.ports import free_port
from tests.prometheus_server import promtool
from tests.services import make_settings


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which a program of that name is, and nothing else."""
    program = tmp_path / "bin" / "prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def found(folder: Path, said: list[str], **settings: Any) -> LocalPrometheus | None:
    made = make_settings(folder, **{"prometheus_port": free_port(), **settings})
    made.data_dir.mkdir(exist_ok=True)
    return find_prometheus(made, log=folder / "log", report=said.append, free_port=lambda: 4711)


def test_where_none_is_installed_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []

    assert found(tmp_path, said) is None
    assert said == []


def test_one_that_is_not_wanted_is_not_started(tmp_path: Path, installed: Path) -> None:
    said: list[str] = []

    assert found(tmp_path, said, prometheus_port=0) is None
    assert said == []


def test_a_port_that_is_taken_is_named_with_its_setting(tmp_path: Path, installed: Path) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        assert found(tmp_path, said, prometheus_port=port) is None

    [line] = said
    assert str(port) in line
    assert "COMFYLINE_PROMETHEUS_PORT" in line


def test_it_scrapes_a_port_of_its_own_without_a_key_and_has_none_of_our_secrets(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYLINE_API_KEYS", "a-secret-key")

    started = found(tmp_path, [])

    assert started is not None
    assert started.overrides == {"COMFYLINE_METRICS_PORT": "4711"}
    assert started.spec.command[0] == str(installed)
    assert "a-secret-key" not in str(started.spec)
    config = yaml.safe_load((tmp_path / "data" / "prometheus" / "prometheus.yaml").read_text())
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:4711"]}]
    assert [Path(name).name for name in config["rule_files"]] == list(RULES)
    assert all(Path(name).is_relative_to(ROOT) for name in config["rule_files"])


def test_a_port_for_metrics_that_is_set_is_the_one(tmp_path: Path, installed: Path) -> None:
    started = found(tmp_path, [], metrics_port=8123, metrics_host="0.0.0.0")

    assert started is not None
    assert started.overrides == {"COMFYLINE_METRICS_PORT": "8123"}
    assert '"127.0.0.1:8123"' in (tmp_path / "data" / "prometheus" / "prometheus.yaml").read_text()


def test_what_it_is_given_is_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promtool("--version")
    started = found(tmp_path, [])

    assert started is not None
    checked = promtool("check", "config", str(tmp_path / "data" / "prometheus" / "prometheus.yaml"))
    assert checked.returncode == 0, checked.stderr


def test_metrics_in_the_place_of_the_api_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_API_PORT", "8123")
    monkeypatch.setenv("COMFYLINE_METRICS_PORT", "8123")

    with pytest.raises(ConfigurationError, match="COMFYLINE_METRICS_PORT and COMFYLINE_API_PORT"):
        load_settings()
