"""Whether a fleet is one machine: where its ledger, its broker and its files are, and who reaches its API."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from core.settings.settings import Settings

MOUNTS = Path("/proc/self/mountinfo")
#: File systems that no other machine sees. Whatever is not among them counts as shared.
LOCAL_FILE_SYSTEMS = frozenset(
    (
        *("apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfsplus", "jfs", "ntfs"),
        *("ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "vfat", "xfs", "zfs"),
    )
)


class _Company:
    """What this process knows of other machines of the fleet, beyond its settings; see `core.neighbour_watch`."""

    #: Processes of the fleet run on another machine: a database or a broker on loopback is the end of a tunnel.
    is_there = False


#: One for each process.
company = _Company()


def serves_one_machine(settings: Settings) -> bool:
    """Return whether clients can only be programs of this machine, since nothing of the fleet is anywhere else.

    What a name in a URL, the environment of libpq or a service file lead to is looked up once in a process. Of other
    machines the ledger may have told since this was asked last.
    """
    if settings.public_url or company.is_there:
        return False
    return is_loopback(settings.api_host) and is_one_machine(settings)


def is_one_machine(settings: Settings) -> bool:
    """Return whether ledger, broker and files are all reached on this machine, so that no other seems to be needed."""
    if settings.storage_url:
        return False
    # Each by itself: any of them may be a mount, or a link to one.
    folders = (settings.data_dir, settings.outputs_dir, settings.inputs_dir)
    return _stays_here(settings.ledger_url, settings.transport_url, folders)


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is loopback; of names only `localhost` is, wherever others lead."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _leads_here(host: str | None) -> bool:
    """Return whether a host is this machine by each of its addresses; "" is a socket, None is not known."""
    if host is None:
        return False
    if host in ("", "localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


@lru_cache(maxsize=64)
def _stays_here(ledger_url: str, broker_url: str, folders: tuple[Path, ...]) -> bool:
    files = [folder for folder in folders if folder]
    if ledger_url.startswith("sqlite"):
        files += _sqlite_folder(ledger_url)
    hosts = [*_broker_hosts(broker_url), *_ledger_hosts(ledger_url)]
    return all(map(_leads_here, hosts)) and not any(map(is_shared, files))


def is_shared(folder: Path) -> bool:
    """Return whether a directory is on a file system that other machines may see: NFS and the like."""
    mounts = _mounts()
    if not mounts:
        return False
    real = folder.resolve()
    # The nearest that is mounted; the last one of several at one place hides the others.
    for place in (real, *real.parents):
        if place in mounts:
            return mounts[place] not in LOCAL_FILE_SYSTEMS
    return False


def _mounts() -> Mapping[Path, str]:
    """Return the type of the file system at each place where one is mounted; see proc(5), "mountinfo"."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        fields, _, rest = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields.split()[4])
        found[Path(place)] = rest.split()[0]
    return found


def _sqlite_folder(url: str) -> list[Path]:
    path = url.partition("://")[2].partition("?")[0].removeprefix("/")
    return [Path(path).absolute().parent] if path and path != ":memory:" else []


def _broker_hosts(url: str) -> list[str | None]:
    """Return the hosts a broker's URL names: "" for a socket, None where it cannot be told."""
    try:
        parts = urlsplit(url)
        if parts.scheme.endswith("+socket"):
            return [""]
        # Of several brokers any may be the one that is connected to.
        if ";" in url or "host" in parse_qs(parts.query):
            return [None]
        return [unquote(parts.hostname or "localhost")]
    except ValueError:
        return [None]


def _ledger_hosts(url: str) -> list[str | None]:
    """Return the hosts that libpq connects to, by the URL, PGHOST or a service; "" is a socket, None unknown."""
    if url.startswith("sqlite"):
        return []
    # Imported late: the driver decides at its import whether gevent has patched the standard library.
    from psycopg import OperationalError, conninfo, pq
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url).set(drivername="postgresql+psycopg")
    except (ValueError, ArgumentError):
        return [None]
    _, options = parsed.get_dialect()().create_connect_args(parsed)
    # Begun and not waited for: it has read all that it goes by then.
    connection = pq.PGconn.connect_start(conninfo.make_conninfo(**options).encode())
    try:
        effective = {option.keyword: (option.val or b"").decode() for option in connection.info}
    except OperationalError:
        return [None]
    finally:
        connection.finish()
    hosts = effective.get(b"hostaddr") or effective.get(b"host") or ""
    return ["" if host.startswith(("/", "@")) else host for host in hosts.split(",")]
