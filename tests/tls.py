"""Certificates made for a test, and servers of its own that speak TLS alone."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import sys
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from comfy.process import launch
from tests.own_servers import OwnPostgres, OwnRabbit, OwnServer
from tests.ports import free_port
from tests.services import missing

_DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of one test.

    Its servers' certificates are for 127.0.0.1 and `localhost`, valid for a day.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Servers run as other users.
        folder.chmod(0o755)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"Test authority {uuid.uuid4().hex[:8]}")
        basic = x509.BasicConstraints(ca=True, path_length=0)
        made = _builder(self._name, self._name, self._key).add_extension(basic, critical=True)
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = ("localhost",), addresses: tuple[str, ...] = ("127.0.0.1",)
    ) -> tuple[Path, Path]:
        """Return the files of a server's certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host) for host in hosts]
        names_and_addresses = [*names, *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses)]
        made = _builder(_name(name), self._name, key)
        made = made.add_extension(x509.SubjectAlternativeName(names_and_addresses), critical=False)
        certificate, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        form, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(form, kind, serialization.NoEncryption()))
        return certificate, key_file


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - _DAY, now + _DAY
    )


class TlsPostgres(OwnPostgres):
    """A PostgreSQL cluster that takes TCP connections with TLS alone."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        certificate, key = authority.issue("postgres")
        data = self.folder / "data"
        for source, name in ((certificate, "server.crt"), (key, "server.key")):
            shutil.copy(source, data / name)
            (data / name).chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(data / name, "postgres", "postgres")
        with (data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\n")
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")

    def _url_of(self, database: str) -> str:
        plain = super()._url_of(database)
        return f"{plain}?sslmode=verify-full&sslrootcert={self.authority.certificate}"


class TlsRedis(OwnServer):
    """A Redis that listens for TLS alone; the test ends where no server here speaks it."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__()
        program = next(filter(None, map(shutil.which, ("redis-server", "valkey-server"))), None)
        if program is None:
            missing("no Redis that speaks TLS: redis-server and valkey-server are not on the PATH")
        if (
            subprocess.run([program, "--tls-port", "x"], capture_output=True, timeout=10).stdout.find(b"Bad directive")
            >= 0
        ):
            missing(f"no Redis that speaks TLS: {program} was built without it")
        self._program, self._folder = program, folder
        folder.mkdir()
        self._ca = authority.certificate
        self._files = authority.issue("redis")
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"

    def is_answering(self) -> bool:
        return _speaks_tls(self.port, self._ca)

    def _command(self) -> list[str]:
        certificate, key = self._files
        return [
            *_launcher(),
            *(self._program, "--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1"),
            *("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(self._ca)),
            *("--tls-auth-clients", "no", "--dir", str(self._folder), "--save", "", "--appendonly", "yes"),
        ]


class TlsRabbit(OwnRabbit):
    """A RabbitMQ node that listens for TLS alone; the test ends where the program is not there."""

    def __init__(self, folder: Path, authority: Authority, *, options: str = "") -> None:
        """Parameters: options - further lines of its configuration."""
        self._ca, self._options = authority.certificate, options
        self._files = authority.issue("rabbitmq")
        super().__init__(folder)

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@127.0.0.1:{self.port}//"

    def is_answering(self) -> bool:
        return _speaks_tls(self.port, self._ca)

    def _configuration(self) -> str:
        certificate, key = self._files
        return (
            "listeners.tcp = none\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.port}\n"
            f"ssl_options.cacertfile = {self._ca}\n"
            f"ssl_options.certfile = {certificate}\n"
            f"ssl_options.keyfile = {key}\n"
            "ssl_options.verify = verify_none\n"
            "ssl_options.fail_if_no_peer_cert = false\n"
            f"{self._options}"
        )


def _launcher() -> list[str]:
    # The kernel ends the server should the test run be killed.
    return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]


def _speaks_tls(port: int, ca: Path) -> bool:
    context = ssl.create_default_context(cafile=ca)
    try:
        plain = socket.create_connection(("127.0.0.1", port), timeout=2)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1"):
            return True
    except OSError:
        return False
