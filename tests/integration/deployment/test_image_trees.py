"""The images' steps carried out without Docker, and a fleet that runs from what they make: no root, no rights.

Docker itself is not there; this machine's root stands for the base images. See deploy/docker/trees.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
import yaml

from tests.fleet import work
from tests.paths import ROOT
from tests.ports import free_port
from tests.services import Broker, PostgresServer, missing
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOCKER = ROOT / "deploy" / "docker"
TREES = [sys.executable, str(DOCKER / "trees.py")]
#: Who runs in the images.
USER = 10001
KEY = "a-key-of-the-operator"
#: A checkout that is none: ComfyUI's arguments, answered by our simulator from the same image.
MAIN = """
import os, sys
program = "/opt/comfyline/bin/python"
os.execv(program, [program, "-m", "comfy.simulator", *(word for word in sys.argv[1:] if word != "--cpu")])
"""


def loaded(name: str) -> ModuleType:
    """A program of deploy/docker, which is no package."""
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def can_mount() -> bool:
    """Whether this user may lay one folder over another, and become somebody else."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "chroot"))):
        return False
    script = (
        "d=$(mktemp -d) && mkdir $d/u $d/w $d/m && mount -t overlay o -o lowerdir=/,upperdir=$d/u,workdir=$d/w $d/m"
    )
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the trees `comfyline` and `comfyline-gpu`."""
    if not can_mount():
        missing("trees of images need root, and overlays")
    output = tmp_path_factory.mktemp("images")
    build = [*TREES, "build", "--context", str(ROOT), "--output", str(output)]
    subprocess.run([*build, str(DOCKER / "Dockerfile")], check=True, timeout=600)
    checkout = tmp_path_factory.mktemp("ComfyUI")
    (checkout / "main.py").write_text(MAIN)
    (checkout / "requirements.txt").write_text("# Nothing: the simulator is in the other image.\n")
    (checkout / ".venv").mkdir()
    (checkout / "models").mkdir()
    (checkout / "models" / "large.safetensors").touch()
    (checkout / "main.py").chmod(0o600)
    subprocess.run(
        [
            *build, str(DOCKER / "Dockerfile.gpu"), "--image", f"comfyline:dev={output / 'comfyline'}",
            "--build-context", f"comfyui={checkout}", "--build-arg", "TORCH_PACKAGES=",
        ],
        check=True, timeout=600,
    )  # fmt: skip
    yield output
    shutil.rmtree(output, ignore_errors=True)


class Container:
    """One process of a tree, with what compose.yaml gives its service."""

    def __init__(self, images: Path, service: str, folder: Path, variables: Mapping[str, str]) -> None:
        described = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"][service]
        self._tree = images / ("comfyline-gpu" if service == "gpu" else "comfyline")
        self._mounts: list[str] = []
        self._tmpfs = [each.partition(":")[0] for each in described["tmpfs"] if not each.startswith("/tmp")]
        volumes = [volume for volume in described.get("volumes", []) if "MODELS" not in volume]
        for volume in volumes:
            name, inside = volume.split(":")
            place = folder / name
            if not place.exists():
                place.mkdir(mode=0o700)
                # A new volume of Docker takes its owner from the image.
                os.chown(place, USER, USER)
            self._mounts.append(f"{place}={inside}")
        # What is said there of settings holds here too, but for secrets and what lies beyond this machine.
        given = {name: str(value) for name, value in described["environment"].items() if "${" not in str(value)}
        self._variables = {
            name: value for name, value in given.items() if not name.endswith("_FILE") and name != "COMFYLINE_API_HOST"
        } | dict(variables)
        self._arguments = described["command"]
        self._log = folder / f"{service}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str, entrypoint: str | None = None) -> list[str]:
        options = [f"--mount={each}" for each in self._mounts] + [f"--tmpfs={each}" for each in self._tmpfs]
        options += [f"--env={name}={value}" for name, value in self._variables.items()]
        options += [f"--entrypoint={entrypoint}"] if entrypoint else []
        return [*TREES, "run", *options, str(self._tree), *arguments]

    def forget(self, name: str) -> None:
        """Leave a setting out."""
        self._variables.pop(name)

    def start(self) -> Container:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(*self._arguments), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        return self

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run something else in a container like this one."""
        return subprocess.run(
            self.command(*arguments, entrypoint=program), capture_output=True, text=True, timeout=60, check=False
        )

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM to the first process, as Docker sends it; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def end(self) -> None:
        if self._process is not None and self.is_running():
            try:
                self.stop(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def statuses(self) -> list[dict[str, str]]:
        """What the kernel says of the first process and its children."""
        assert self._process is not None
        pid = self._process.pid
        pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        texts = [Path(f"/proc/{each}/status").read_text() for each in pids]
        return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


class ImageFleet:
    """API, io worker, beat and GPU worker, each from its image."""

    def __init__(self, images: Path, folder: Path, database_url: str, broker: Broker) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.headers = {"Authorization": f"Bearer {KEY}"}
        shared = {
            "COMFYLINE_DATABASE_URL": database_url,
            "COMFYLINE_BROKER_URL": broker.url,
            "COMFYLINE_BROKER_NAMESPACE": broker.namespace,
            "COMFYLINE_SECRET_KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            "COMFYLINE_API_KEYS": KEY,
            "COMFYLINE_API_PORT": str(self.port),
            "COMFYLINE_STORAGE_DIR": "/storage",
            "COMFYLINE_DRAIN_GRACE_S": "60",
        }
        host = {"COMFYLINE_HOST": "gpu-host"}
        # Two "GPUs" of a machine without a driver.
        gpu = {"COMFYLINE_GPUS": "0,1", "COMFYLINE_COMFYUI_ARGS": "--cpu"}
        self.api = Container(images, "api", folder, shared)
        self.io = Container(images, "io", folder, shared | host)
        self.beat = Container(images, "beat", folder, shared)
        self.gpu = Container(images, "gpu", folder, shared | host | gpu)
        # Models are a mount of the operator's, which the test has none of.
        self.gpu.forget("COMFYLINE_MODELS_DIR")
        self.all = [self.gpu, self.beat, self.io, self.api]

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = requests.request(method, f"{self.url}{path}", headers=self.headers, timeout=20, **options)
        assert answer.ok, answer.text
        return answer.json()

    def healthy(self) -> int:
        try:
            answer = requests.get(f"{self.url}/ready", headers=self.headers, timeout=5).json()
        except requests.RequestException:
            return 0
        return int(answer.get("healthy_instances", 0))

    def submit(self, graph: Mapping[str, Any]) -> str:
        return str(self.ask("POST", "/api/v2/jobs", json={"workflow": graph})["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/api/v2/jobs/{job_id}")
        return found


@pytest.fixture(scope="module")
def running(
    images: Path, tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, shared_redis: Broker
) -> Iterator[ImageFleet]:
    """One fleet for all tests."""
    url = postgres.create()
    made = ImageFleet(images, tmp_path_factory.mktemp("image-fleet"), url, shared_redis)
    try:
        for each in reversed(made.all):
            each.start()
        yield made
    finally:
        for each in made.all:
            each.end()
        postgres.drop(url)


@pytest.fixture
def fleet(running: ImageFleet) -> ImageFleet:
    """That fleet, with its GPU worker, which a test may have stopped."""
    if not running.gpu.is_running():
        running.gpu.start()
    try:
        until(lambda: running.healthy() == 2, timeout_s=120, what="two GPUs")
    except AssertionError as exc:
        raise AssertionError("\n".join(each.log()[-2000:] for each in running.all)) from exc
    return running


# --- what the steps make --------------------------------------------------------------------------------------------


def test_an_image_has_what_runs_and_no_tools(images: Path) -> None:
    packages = next((images / "comfyline" / "files" / "opt" / "comfyline" / "lib").glob("python3.*")) / "site-packages"
    names = {path.name.partition("-")[0].lower() for path in packages.glob("*.dist-info")}

    assert {"comfyline", "celery", "flask", "psycopg", "psycopg_binary", "gevent", "alembic", "flower"} <= names
    assert not {"pytest", "mypy", "ruff", "moto", "hypothesis", "comfy_sdk", "kubernetes_validate"} & names
    # Made now, for nothing can be written later.
    assert list(packages.glob("api/__pycache__/*.pyc"))


def test_what_the_lock_keeps_is_all_that_the_project_asks_for() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    program = loaded("runtime-requirements")

    kept = program.entries("".join(program.runtime(lock)))

    asked = {name for name, (_, by) in program.entries(lock).items() if any(map(program.PROJECT.fullmatch, by))}
    assert len(asked) > 25
    assert asked <= kept.keys()
    assert all("--hash=sha256:" in text for text, _ in kept.values())


def test_a_checkout_of_ones_own_comes_without_what_was_its_machines(images: Path) -> None:
    checkout = images / "comfyline-gpu" / "files" / "opt" / "ComfyUI"

    assert (checkout / "main.py").read_text() == MAIN
    # The folder was its owner's alone; the worker is another user.
    assert (checkout / "main.py").stat().st_mode & 0o777 == 0o644
    assert list((checkout / "models").iterdir()) == []
    assert (checkout / ".venv" / "bin" / "python").is_symlink()


@pytest.mark.parametrize(
    ("step", "reason"),
    [("ADD https://example.com/x /x", "ADD is not known"), ("CMD comfyline api", "shell in between"),
     ("RUN --mount=type=cache,target=/x true", "options"), ("COPY --chown=1:1 README.md /", "--chown is not known")],
)  # fmt: skip
def test_a_step_that_is_not_understood_ends_the_build(step: str, reason: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("trees of images need root")
    (tmp_path / "Dockerfile").write_text(f"FROM scratch AS one\n{step}\n")
    (tmp_path / "README.md").touch()

    done = subprocess.run(
        [*TREES, "build", str(tmp_path / "Dockerfile"), "--context", str(tmp_path), "--output", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert reason in done.stderr


# --- what runs from them --------------------------------------------------------------------------------------------


def test_a_job_is_served_from_the_images_without_root_and_without_rights(fleet: ImageFleet) -> None:
    job_id = fleet.submit(work(0.5))
    done = until(
        lambda: (found := fleet.job(job_id))["status"] in ("succeeded", "failed") and found,
        timeout_s=60,
        what="the job",
    )

    assert done["status"] == "succeeded", done
    picture = requests.get(done["outputs"][0]["url"], timeout=10).content
    assert picture.startswith(b"\x89PNG")
    for each in fleet.all:
        for status in each.statuses():
            assert status["Uid"].split() == [str(USER)] * 4
            assert status["Gid"].split() == [str(USER)] * 4
            assert status["CapEff"].strip("0") == status["CapBnd"].strip("0") == ""
            assert status["NoNewPrivs"] == "1"
    listed = {each["name"]: each["kind"] for each in fleet.ask("GET", "/ready")["instances"]}
    assert listed.keys() == {"gpu0@gpu-host", "gpu1@gpu-host"}


def test_nothing_can_be_written_but_what_is_mounted(fleet: ImageFleet) -> None:
    for place in ("/opt/comfyline/x", "/opt/ComfyUI/x", "/etc/x", "/x"):
        assert fleet.gpu.run("touch", place).returncode != 0, place
    for place in ("/data/x", "/storage/x", "/tmp/x"):
        done = fleet.gpu.run("touch", place)
        assert done.returncode == 0, done.stderr
    # The beat's data directory is gone with it.
    assert "tmpfs" in fleet.beat.run("df", "--output=fstype", "/data").stdout


def test_probes_say_how_a_container_is(fleet: ImageFleet) -> None:
    # Another process sees the same ports and, as in a container, the same data and processes.
    assert fleet.api.run("comfyline-probe", "api", str(fleet.port)).returncode == 0
    well = fleet.gpu.run("comfyline-probe", "gpu")
    assert (well.returncode, well.stderr) == (0, "")

    nobody = fleet.api.run("comfyline-probe", "api", str(free_port()))
    assert nobody.returncode == 1
    assert "does not answer /health" in nobody.stderr
    fleet.gpu.stop()
    gone = fleet.gpu.run("comfyline-probe", "gpu")
    assert gone.returncode == 1
    assert "no GPU worker runs" in gone.stderr


def test_a_worker_that_is_told_to_stop_ends_its_job_first(fleet: ImageFleet) -> None:
    job_id = fleet.submit(work(5.0))
    until(lambda: fleet.job(job_id)["status"] == "running", timeout_s=30, what="the job running")

    assert fleet.gpu.stop() == 0

    done = until(
        lambda: (found := fleet.job(job_id))["status"] in ("succeeded", "failed") and found,
        timeout_s=60,
        what="its end",
    )
    assert done["status"] == "succeeded", done
    # With its first attempt: it was not given back and begun anew.
    assert (done["attempt"], done["losses"]) == (1, [])
