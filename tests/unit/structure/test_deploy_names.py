"""What deploy/ names is there: settings, commands, routes, files of images; and its times to stop fit the drain."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import COMMANDS
from core.settings import Settings
from core.settings.settings import PREFIX
from core.settings.sources import SECRET_FIELDS
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
#: What is not in the repository: bytecode, and what whoever tries compose.yaml here has made.
OWN = {"__pycache__", "secrets", "models", ".env"}
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and not OWN & {*path.parts})
IMAGES = [DEPLOY / "docker" / name for name in ("Dockerfile", "Dockerfile.gpu")]
COMPOSE = [DEPLOY / name for name in ("compose.yaml", "compose.gpu-host.yaml")]
#: Programs that the images bring, beside `comfyline`.
PROGRAMS = {"comfyline-probe": ("api", "flower", "gpu")}
#: Seconds beyond the grace of jobs in which a worker gives back what is left, and ends ComfyUI.
LEAST_BEYOND_S = 30


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(text(path)) if one]


def kubernetes() -> list[Path]:
    return sorted((DEPLOY / "kubernetes").rglob("*.yaml"))


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def known_settings() -> set[str]:
    names = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if field.validation_alias is None}
    return names | {f"{PREFIX}{field.upper()}_FILE" for field in SECRET_FIELDS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_setting_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z0-9_]*[A-Z0-9]\b", text(path)))

    assert named - known_settings() == set()


def started() -> Iterator[tuple[str, list[str]]]:
    """`(where, words behind comfyline)` of each process that something in deploy/ starts."""
    for path in IMAGES:
        for found in re.findall(r"^CMD (\[.*\])$", text(path), re.MULTILINE):
            yield path.name, yaml.safe_load(found)
    for path in COMPOSE:
        for name, service in documents(path)[0]["services"].items():
            if "comfyline" in service.get("image", ""):
                yield f"{path.name} {name}", service["command"]
    for path in kubernetes():
        for container in (each for document in documents(path) for each in walk(document) if "image" in each):
            if str(container["image"]).startswith("comfyline"):
                yield f"{path.name} {container['name']}", container["args"]
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        for found in re.findall(r"^ExecStart=\S+/comfyline (.*)$", text(path), re.MULTILINE):
            yield path.name, shlex.split(found)


@pytest.mark.parametrize(("where", "words"), list(started()))
def test_every_command_exists(where: str, words: list[str]) -> None:
    assert words[0] in COMMANDS, where


def test_each_part_of_a_fleet_is_started_by_each_way() -> None:
    wanted = {"api", "io", "beat", "flower", "gpu"}
    for mark in ("compose.yaml", ".service"):
        assert {words[0] for where, words in started() if mark in where} == wanted
    in_pods = {
        words[0] for where, words in started() if where.partition(" ")[0] in {path.name for path in kubernetes()}
    }
    assert in_pods == wanted


def probes() -> Iterator[list[str]]:
    for path in COMPOSE:
        yield from (each["test"][1:] for each in walk(documents(path)[0]) if isinstance(each.get("test"), list))
    for path in kubernetes():
        yield from (each["exec"]["command"] for one in documents(path) for each in walk(one) if "exec" in each)
    for path in IMAGES:
        yield from (yaml.safe_load(found) for found in re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text(path), re.M))


def test_what_probes_run_is_in_the_image() -> None:
    ours = [words for words in probes() if words[0].startswith("comfyline")]

    assert len(ours) > 6
    for program, what, *_ in ours:
        assert what in PROGRAMS[program]
    assert "deploy/docker/probe.py /opt/comfyline/bin/comfyline-probe" in text(IMAGES[0])


def test_probes_ask_routes_that_need_no_key() -> None:
    asked = {
        each["httpGet"]["path"]
        for path in kubernetes()
        for one in documents(path)
        for each in walk(one)
        if "httpGet" in each
    }

    assert asked == {"/health"}
    served = (ROOT / "api" / "server" / "health.py").read_text(encoding="utf-8")
    assert all(f'@blueprint.get("{path}")' in served for path in asked)


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_what_an_image_is_made_of_exists_and_is_sent_along(image: Path) -> None:
    sent = [line[1:] for line in text(ROOT / ".dockerignore").splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!.*--from)(?:--\S+ )*(.+)$", text(image), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in sent), f"{source} is not in .dockerignore"


def test_the_image_has_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    copied = set(re.findall(r"^COPY (\w+) \./\1$", text(IMAGES[0]), re.MULTILINE))

    assert copied == packages


def test_files_that_are_named_to_be_built_from_exist() -> None:
    for path in COMPOSE:
        for build in (each["build"] for each in walk(documents(path)[0]) if "build" in each):
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_takes_its_secrets_from_those_that_are_made(path: Path) -> None:
    made = set(re.findall(r"\| put (\w+)$", text(DEPLOY / "make-secrets.sh"), re.MULTILINE))
    # Brought from the first machine, as the file says.
    brought = {"broker_url"} if path.name == "compose.gpu-host.yaml" else set()

    named = {Path(each["file"]).name for each in documents(path)[0]["secrets"].values()}

    assert named <= made | brought


def test_each_secret_of_a_pod_is_one_that_the_page_has_made() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    named = re.findall(r"/run/secrets/comfyline/(\w+)", text(DEPLOY / "kubernetes" / "base" / "settings.env"))

    assert len(named) == 5
    assert all(f">secrets/{name}\n" in page for name in named)


# --- time to stop ---------------------------------------------------------------------------------------------------


def seconds(duration: str) -> int:
    """Of `3m`, `20s` or `180`."""
    number, unit = re.fullmatch(r"(\d+)([sm]?)", duration).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "m" else 1)


def grace_s(path: Path) -> int:
    """`COMFYLINE_DRAIN_GRACE_S` as a file sets it."""
    found = re.search(r"^ *COMFYLINE_DRAIN_GRACE_S(?:=|: .*:-)(\d+)", text(path), re.MULTILINE)
    assert found is not None, path
    return int(found[1])


def stops() -> Iterator[tuple[str, int, int]]:
    """`(what, seconds it has to stop, seconds that its jobs have)` of each GPU worker."""
    for path in COMPOSE:
        for name, service in documents(path)[0]["services"].items():
            if service.get("command") == ["gpu"]:
                yield f"{path.name} {name}", seconds(service["stop_grace_period"]), grace_s(path)
    in_pods_s = grace_s(DEPLOY / "kubernetes" / "base" / "settings.env")
    for name in ("statefulset", "daemonset"):
        pod = documents(DEPLOY / "kubernetes" / name / "gpu.yaml")[0]["spec"]["template"]["spec"]
        yield name, pod["terminationGracePeriodSeconds"], in_pods_s
    unit = re.search(r"^TimeoutStopSec=(\d+)$", text(DEPLOY / "systemd" / "comfyline-gpu.service"), re.MULTILINE)
    assert unit is not None
    yield "systemd", int(unit[1]), grace_s(DEPLOY / "systemd" / "comfyline.env")


@pytest.mark.parametrize(("what", "stop_s", "jobs_s"), list(stops()))
def test_a_worker_has_time_to_give_back_what_its_jobs_did_not_end(what: str, stop_s: int, jobs_s: int) -> None:
    assert stop_s >= jobs_s + LEAST_BEYOND_S, what


def test_the_env_file_has_what_compose_has_by_default() -> None:
    assert grace_s(DEPLOY / "env.example") == grace_s(COMPOSE[0]) == grace_s(COMPOSE[1])
