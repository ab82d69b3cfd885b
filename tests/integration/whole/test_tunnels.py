"""A GPU host that reaches database and broker through the tunnels of docs/hosts.md, which end on its loopback."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from PIL import Image

from comfy.process import launch
from tests.fleet import work
from tests.host_fleet import HostFleet
from tests.model_server import ModelServer, model_server
from tests.namespaces import Namespace, Topology, why_not
from tests.own_servers import OwnPostgres, OwnRedis, OwnServer
from tests.paths import ROOT
from tests.services import missing
from tests.tls import Authority
from tests.waiting import until

pytestmark = pytest.mark.slow

#: The name that the certificate of the servers is for, in the document.
SERVER = "db.example.com"
POSTGRES_PORT, REDIS_PORT = 5432, 6379


def documented(place: str) -> str:
    """The configuration of stunnel that the document has for a place."""
    text = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    [found] = [each for each in re.findall(r"^```ini\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if place in each]
    return str(found)


class Stunnel(OwnServer):
    """The end of a tunnel, as the document has it: with certificates of a test, in its own namespace."""

    def __init__(self, folder: Path, place: str, authority: Authority, *, name: str, server: str, probe: int) -> None:
        """Parameters:
        name: whom its certificate is for.
        server: the address of the other end.
        probe: a port at which it listens.
        """
        super().__init__()
        program = shutil.which("stunnel4") or shutil.which("stunnel")
        if program is None:
            missing("no tunnel can be laid: there is no stunnel (Debian's package stunnel4)")
        self._program, self._probe = program, probe
        certificate, key = authority.issue(name, hosts=(name,))
        text = documented(place).replace(f"connect = {SERVER}", f"connect = {server}")
        for setting, path in (("cert", certificate), ("key", key), ("CAfile", authority.certificate)):
            text, count = re.subn(rf"^{setting} = .*$", f"{setting} = {path}", text, flags=re.MULTILINE)
            assert count == 1
        folder.mkdir(exist_ok=True)
        self._file = folder / f"{name}.conf"
        # What a service manager would see to.
        self._file.write_text(f"foreground = yes\npid =\n{text}")

    def is_answering(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._probe), timeout=2).close()
        except OSError:
            return False
        return True

    def _command(self) -> list[str]:
        return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), self._program, str(self._file)]


@dataclass(frozen=True, kw_only=True)
class Tunnelled:
    """A machine with the servers and the API, and one with a GPU."""

    here: HostFleet
    far: HostFleet
    tunnel: Stunnel
    authority: Authority
    #: On the loopback of the first machine.
    web: ModelServer
    namespaces: dict[str, Namespace]
    folder: Path


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnelled]:
    """The two machines; of the second one nothing runs yet but its end of the tunnel."""
    if (problem := why_not()) is not None:
        missing(problem)
    folder = tmp_path_factory.mktemp("tunnels")
    authority = Authority(folder / "authority")
    for name in ("here", "far", "storage"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        found = stack.enter_context(Topology(("here", "far"))).hosts
        found["far"].guard()
        address = found["here"].address
        with found["far"].entered():
            place = "on a GPU host"
            far_end = Stunnel(folder / "stunnel", place, authority, name="render1", server=address, probe=POSTGRES_PORT)
            stack.callback(far_end.stop)
            far_end.start()
        stack.enter_context(found["here"].entered())
        postgres = OwnPostgres()
        stack.callback(postgres.remove)
        broker = OwnRedis(folder / "broker")
        stack.callback(broker.stop)
        # In a namespace nobody else has them.
        postgres.port, broker.port = POSTGRES_PORT, REDIS_PORT
        place = "machine of the servers"
        near_end = Stunnel(folder / "stunnel", place, authority, name=SERVER, server="", probe=5433)
        stack.callback(near_end.stop)
        for server in (postgres, broker, near_end):
            server.start()
        settings = {
            "database_url": postgres.new_database(),
            "broker_url": broker.url,
            "secret_key": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
            # Of a file system that looks like a disk of each machine's own.
            "storage_dir": str(folder / "storage"),
            "simulated_gpus": "1",
            "lease_renew_s": "0.5",
            "reconcile_s": "1",
        }
        here, far = (HostFleet(folder / name, found[name], host=name, **settings) for name in ("here", "far"))
        # The API listens to its own loopback.
        here.base_url = f"http://127.0.0.1:{here.port}"
        stack.callback(far.die)
        stack.callback(here.die)
        web = stack.enter_context(model_server())
        here.start("api", "beat")
        until(lambda: is_up(here), what="the API", timeout_s=60)
        yield Tunnelled(
            here=here, far=far, tunnel=far_end, authority=authority, web=web, namespaces=found, folder=folder
        )


def is_up(host: HostFleet) -> bool:
    try:
        return requests.get(f"{host.base_url}/health", timeout=5).ok
    except requests.RequestException:
        return False


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(data, "PNG")
    return data.getvalue()


def submit(fleet: Tunnelled, url: str) -> requests.Response:
    """Ask for a job whose input is on this machine's loopback."""
    graph: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": url}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "shown"}},
    }
    return requests.post(f"{fleet.here.base_url}/api/v2/jobs", json={"workflow": graph}, timeout=20)


def test_a_host_at_the_far_end_makes_it_a_fleet_of_two_machines(fleet: Tunnelled) -> None:
    fleet.web.serve("/a.png", picture(), content_type="image/png")
    url = f"{fleet.web.url}/a.png"
    fleet.here.start("gpu0", "io").ready(gpus=1)
    alone = submit(fleet, url)

    fleet.far.start("gpu0", "io")

    # By its settings each is a fleet of one machine; before, that was so.
    assert alone.status_code == 201, alone.text
    until(lambda: submit(fleet, url).status_code == 422, what="a refusal")
    assert "private address" in submit(fleet, url).text
    assert fleet.here.wait(alone.json()["id"], "succeeded")["attempt"] == 1
    for host in (fleet.here, fleet.far):
        assert until(lambda host=host: "The fleet has other machines." in host.log("io"), what="a word about it")  # type: ignore[misc]
    fleet.here.ready(gpus=2, timeout_s=60)
    fleet.here.stop("gpu0")
    fleet.here.stop("io")
    job_id = fleet.here.submit(work(0.5), convert_output={"format": "jpeg", "quality": 80})
    job = fleet.here.wait(job_id, "succeeded")
    assert job["instance"] == "gpu0@far"
    assert Image.open(io.BytesIO(fleet.here.picture(job))).format == "JPEG"


def test_a_tunnel_that_breaks_for_a_moment_costs_no_attempt(fleet: Tunnelled) -> None:
    fleet.far.start(*(name for name in ("gpu0", "io") if name not in fleet.far.processes))
    fleet.here.ready(gpus=1, timeout_s=60)
    job_id = fleet.here.submit(work(4.0, seed=2))
    fleet.here.wait(job_id, "running")

    fleet.tunnel.kill()
    with fleet.namespaces["far"].entered():
        assert not fleet.tunnel.is_answering()
        fleet.tunnel.start()

    assert fleet.here.wait(job_id, "succeeded", timeout_s=60)["attempt"] == 1


def test_who_has_no_certificate_of_the_authority_is_not_let_in(fleet: Tunnelled, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    address = fleet.namespaces["here"].address
    url = f"postgresql://postgres@127.0.0.1:{POSTGRES_PORT}/postgres?connect_timeout=5"
    with fleet.namespaces["far"].entered():
        psycopg.connect(url).close()
    fleet.tunnel.kill()
    forged = Stunnel(
        tmp_path / "stunnel", "on a GPU host", stranger, name="render1", server=address, probe=POSTGRES_PORT
    )
    with fleet.namespaces["far"].entered():
        # It would believe the server, and is not believed.
        text = forged._file.read_text().replace(str(stranger.certificate), str(fleet.authority.certificate))
        forged._file.write_text(text)
        try:
            forged.start()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
        finally:
            forged.stop()
            fleet.tunnel.start()
        psycopg.connect(url).close()
