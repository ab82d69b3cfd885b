"""Compose files, Kubernetes' manifests and systemd's units, as the programs and schemas that read them take them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.paths import ROOT
from tests.services import missing

DEPLOY = ROOT / "deploy"
OVERLAYS = ("simulated", "nvidia", "daemonset")
#: The oldest that is promised (sidecars), and the newest that the package has.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
#: What is written as a whole fleet's values in Kubernetes, of which a pod may do none.
FORBIDDEN = ("privileged", "hostNetwork", "hostPID", "hostIPC")


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not there")
    return found


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- compose --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of deploy/ in which somebody has followed the first lines of compose.yaml."""
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets", ".env", "models", "__pycache__"))
    run("./make-secrets.sh", cwd=copy)
    shutil.copy(copy / "env.example", copy / ".env")
    return copy


def compose(folder: Path, *, file: str = "compose.yaml", **variables: str) -> dict[str, Any]:
    """What compose makes of a file."""
    text = run(program("docker-compose"), "-f", file, "config", cwd=folder, **variables)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.mark.parametrize(
    ("profiles", "broker", "wanted"),
    [
        ("redis,simulated", "redis", {"redis", "gpu-simulated"}),
        ("rabbitmq,gpu,tls", "rabbitmq", {"rabbitmq", "gpu", "caddy"}),
    ],
)
def test_compose_takes_each_profile(folder: Path, profiles: str, broker: str, wanted: set[str]) -> None:
    found = compose(folder, COMPOSE_PROFILES=profiles, BROKER=broker)

    assert {"api", "io", "beat", "flower", "postgres"} | wanted <= found["services"].keys()
    for name, service in found["services"].items():
        for secret in service.get("secrets", []):
            source = secret if isinstance(secret, str) else secret["source"]
            assert Path(found["secrets"][source]["file"]).is_file(), name
    assert found["services"]["api"]["environment"]["COMFYLINE_BROKER_URL_FILE"] == f"/run/secrets/{broker}_url"


def test_nothing_of_ours_can_write_its_root_or_gain_rights(folder: Path) -> None:
    services = compose(folder, COMPOSE_PROFILES="redis,simulated,gpu")["services"]

    ours = {name: each for name, each in services.items() if "comfyline" in each["image"]}
    assert len(ours) == 6
    for each in ours.values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        # A secret in the environment shows in `docker inspect`, and children inherit it.
        assert not {"COMFYLINE_SECRET_KEY", "COMFYLINE_API_KEYS", "COMFYLINE_DATABASE_URL"} & each["environment"].keys()


def test_a_gpu_worker_and_its_io_worker_are_one_host(folder: Path) -> None:
    services = compose(folder, COMPOSE_PROFILES="redis,simulated,gpu", COMFYLINE_HOST="render1")["services"]

    for worker in ("gpu", "gpu-simulated"):
        for name in (worker, "io"):
            assert services[name]["environment"]["COMFYLINE_HOST"] == "render1"
            assert any("gpu-data" in str(volume) for volume in services[name]["volumes"])
        # So that compose ends the io worker after it.
        assert "io" in services[worker]["depends_on"]


def test_a_further_gpu_machine_is_told_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    (folder / "secrets" / "broker_url").write_text("redis://broker.internal:6379/0")
    variables = {"COMFYLINE_HOST": "render2", "STORAGE": str(tmp_path)}

    found = compose(folder, file="compose.gpu-host.yaml", **variables)["services"]

    assert found.keys() == {"gpu", "io"}
    with pytest.raises(AssertionError, match=r"set STORAGE in \.env"):
        compose(folder, file="compose.gpu-host.yaml", **{**variables, "STORAGE": ""})


def test_secrets_are_made_once(folder: Path) -> None:
    secrets = folder / "secrets"
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    (secrets / "api_keys").unlink()

    again = run("./make-secrets.sh", cwd=folder)

    after = {path.name: path.read_text() for path in secrets.iterdir()}
    assert again.split() == ["secrets/api_keys"]
    assert {name for name in before if before[name] != after[name]} == {"api_keys"}
    assert secrets.stat().st_mode & 0o077 == 0
    assert before["postgres_password"] in before["database_url"]
    assert before["redis_password"] in before["redis_url"]
    assert before["redis_password"] in before["redis_conf"]
    assert before["rabbitmq_password"] in before["rabbitmq_url"]
    assert before["rabbitmq_password"] in before["rabbitmq_conf"]


def test_made_secrets_are_settings_that_a_process_takes(folder: Path) -> None:
    names = ("database_url", "redis_url", "secret_key", "api_keys", "flower_basic_auth")
    variables = {
        f"COMFYLINE_{name.upper().replace('REDIS', 'BROKER')}_FILE": f"{folder}/secrets/{name}" for name in names
    }
    look = (
        "from core.settings import load_settings; from core.startup import check_api\n"
        "from core.ledger.sealing import load_keys\n"
        "found = load_settings(); check_api(found); load_keys(found.secret_key.get_secret_value(), found.data_dir)\n"
        "print(found.broker_url.partition('@')[2])"
    )

    shown = run(sys.executable, "-c", look, cwd=ROOT, **variables)

    assert shown.strip() == "redis:6379/0"


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def manifests(overlay: str) -> list[dict[str, Any]]:
    """What kustomize makes of an overlay."""
    text = run(program("kubectl"), "kustomize", DEPLOY / "kubernetes" / overlay, cwd=ROOT)
    return [one for one in yaml.safe_load_all(text) if one]


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    found = {one["metadata"]["name"]: one["spec"] for one in manifests(overlay) if "template" in one.get("spec", {})}
    return {name: spec["template"]["spec"] for name, spec in found.items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_schemas_take_each_overlay(overlay: str, version: str) -> None:
    found = manifests(overlay)

    assert len(found) > 14
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_would_notice() -> None:
    [wrong] = [one for one in manifests("simulated") if one["kind"] == "StatefulSet"]
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 60

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_selector_finds_pods_and_each_mount_a_volume(overlay: str) -> None:
    found = manifests(overlay)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in found if "template" in one.get("spec", {})]
    selectors = [
        one["spec"].get("selector") or one["spec"].get("podSelector") for one in found
        if one["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy")
    ]  # fmt: skip
    for selector in filter(None, selectors):
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= each.items() for each in labels), wanted
    for one in (one for one in found if "template" in one.get("spec", {})):
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_rights_and_one_configuration(overlay: str) -> None:
    [settings] = [one for one in manifests(overlay) if one["kind"] == "ConfigMap"]
    for name, pod in pods(overlay).items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        assert not any(pod.get(key) for key in FORBIDDEN)
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}], name
            assert container["image"].startswith("registry.example.com/comfyline"), container["image"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_io_worker_of_a_gpu_pod_outlives_it_and_has_its_name_and_data(overlay: str) -> None:
    pod = pods(overlay)["comfyline-gpu"]
    [io], [gpu] = pod["initContainers"], pod["containers"]

    assert io["restartPolicy"] == "Always"
    mounts = [{mount["name"]: mount["mountPath"] for mount in each["volumeMounts"]} for each in (io, gpu)]
    assert mounts[0]["data"] == mounts[1]["data"]
    hosts = [[each for each in one["env"] if each["name"] == "COMFYLINE_HOST"] for one in (io, gpu)]
    assert hosts[0] == hosts[1] != []


def test_a_simulated_fleet_asks_for_no_gpu_and_a_real_one_does() -> None:
    assert "nvidia.com/gpu" not in pods("simulated")["comfyline-gpu"]["containers"][0]["resources"]["limits"]
    for overlay in ("nvidia", "daemonset"):
        assert pods(overlay)["comfyline-gpu"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_namespace_admits_what_stands_in_it() -> None:
    for overlay in OVERLAYS:
        [space] = [one for one in manifests(overlay) if one["kind"] == "Namespace"]
        level = space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        uses_folders_of_the_node = any(
            "hostPath" in volume for pod in pods(overlay).values() for volume in pod["volumes"]
        )
        assert level == ("privileged" if uses_folders_of_the_node else "restricted")


# --- systemd --------------------------------------------------------------------------------------------------------


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    verify = program("systemd-analyze")
    for path in sorted((DEPLOY / "systemd").glob("comfyline*.*")):
        if path.suffix in (".service", ".target"):
            # The program is where this checkout has it; all else stays.
            text = path.read_text().replace("/opt/comfyline/.venv", str(Path(sys.prefix)))
            (tmp_path / path.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    assert len(units) == 6

    done = subprocess.run([verify, "verify", *units], capture_output=True, text=True, timeout=60, check=False)

    # It tells of unknown lines, and is content all the same.
    assert (done.returncode, done.stderr) == (0, "")


def test_units_hand_over_the_secrets_that_they_name() -> None:
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        text = path.read_text()
        handed = set(re.findall(r"^LoadCredential=(\w+):/etc/comfyline/secrets/\1$", text, re.MULTILINE))
        named = {
            secret: setting
            for setting, secret in re.findall(r"^Environment=COMFYLINE_(\w+)_FILE=%d/(\w+)$", text, re.MULTILINE)
        }
        assert handed == named.keys() >= {"database_url", "broker_url", "secret_key"}
        assert all(setting == secret.upper() for secret, setting in named.items())
