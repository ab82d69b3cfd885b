"""A proxy that speaks TLS before a fleet, with the configuration that deploy/ has for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from tests.paths import ROOT
from tests.ports import free_port
from tests.services import missing
from tests.tls import Authority
from tests.waiting import until

DEPLOY = ROOT / "deploy"


class FromAddress(HTTPAdapter):
    """Connections that come from an address of the loopback network."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, source_address=(self._address, 0))


class Front:
    """A running proxy. A context manager that ends it."""

    #: The program, and the package of Debian that has it.
    program = ""

    def __init__(self, folder: Path, upstream: str) -> None:
        """Parameters: upstream - host and port of the API."""
        folder.mkdir()
        self.folder = folder
        self.upstream = upstream
        self.port, self.plain_port = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        self._authority = Authority(folder / "tls")
        self.ca = self._authority.certificate
        self.certificate, self.key = self._authority.issue("proxy")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Front:
        found = shutil.which(self.program) or shutil.which(self.program, path="/usr/sbin")
        if found is None:
            missing(f"{self.program} is not there")
        with (self.folder / "output.log").open("wb") as log:
            self._process = subprocess.Popen(
                [found, *self._prepare()],
                cwd=self.folder,
                env={**os.environ, **self._variables()},
                stdout=log,
                stderr=log,
            )
        try:
            until(self._answers, what=f"{self.program} on port {self.port}")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, address: str = "127.0.0.1", **headers: str) -> requests.Session:
        """A client that trusts the proxy's authority, and comes from an address."""
        session = requests.Session()
        # Authorities that the environment names would be asked in place of ours.
        session.trust_env = False
        session.mount("https://", FromAddress(address))
        session.verify = str(self.ca)
        session.headers.update(headers)
        return session

    def written_bytes(self) -> int:
        """What the proxy's processes have written to disks since their start."""
        pids = [self.pid, *map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]
        lines = (line for pid in pids for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return sum(int(line.partition(": ")[2]) for line in lines if line.startswith("write_bytes"))

    def _answers(self) -> bool:
        assert self._process is not None
        log = (self.folder / "output.log").read_text(errors="replace")
        assert self._process.poll() is None, log
        try:
            return self.client().get(f"{self.url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def _prepare(self) -> list[str]:
        """Write the configuration; returns the program's arguments."""
        raise NotImplementedError

    def _variables(self) -> dict[str, str]:
        return {}


def replaced(text: str, changes: dict[str, str]) -> str:
    """What a machine changes in a configuration. What is to be changed has to be there."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Nginx(Front):
    program = "nginx"

    def _prepare(self) -> list[str]:
        changes = {
            "server 127.0.0.1:8000;": f"server {self.upstream};",
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "/etc/nginx/tls/fullchain.pem": str(self.certificate),
            "/etc/nginx/tls/privkey.pem": str(self.key),
            "/var/log/nginx/comfyline.log": str(self.folder / "access.log"),
            "/var/log/nginx/comfyline-error.log": str(self.folder / "api-error.log"),
        }
        (self.folder / "comfyline.conf").write_text(
            replaced((DEPLOY / "nginx" / "comfyline.conf").read_text(), changes)
        )
        kept = "".join(
            f"{name}_temp_path {self.folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Its workers are this user too, who alone may look into the test's folder.
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {self.folder}/nginx.pid;\n"
            f"events {{}}\nhttp {{\n{kept}include {self.folder}/comfyline.conf;\n}}\n"
        )
        return ["-p", str(self.folder), "-e", f"{self.folder}/error.log", "-c", f"{self.folder}/nginx.conf"]


class Caddy(Front):
    program = "caddy"

    def _prepare(self) -> list[str]:
        # Its own certificates and its administration would be the machine's, and the test has these.
        changes = {
            "\tlog default {\n": "\tadmin off\n\tauto_https disable_redirects\n\tlog default {\n",
            "{$SITE:api.example.com} {\n": "{$SITE:api.example.com} {\n\tbind 127.0.0.1\n"
            f"\ttls {self.certificate} {self.key}\n",
        }
        (self.folder / "Caddyfile").write_text(replaced((DEPLOY / "caddy" / "Caddyfile").read_text(), changes))
        return ["run", "--config", f"{self.folder}/Caddyfile", "--adapter", "caddyfile"]

    def _variables(self) -> dict[str, str]:
        home = str(self.folder)
        return {
            "SITE": self.url, "UPSTREAM": self.upstream, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home
        }  # fmt: skip
