"""Network namespaces as the hosts of a fleet: each with an address, a loopback and a cable of its own.

All of a topology's namespaces hang on a bridge that is in a namespace as well, so that nothing shows on the machine
that runs the tests, and their names begin with the process that made them: what a killed run left is removed by the
next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from comfy.liveness.procfs import ProcessIdentity
from tests.waiting import eventually

PREFIX = "cltest-"
#: Of a range for benchmarks, which is nobody's network.
NETWORK = "198.18.0.0/24"
PLACE = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

#: What a host with this has: what it asks for is answered, and nobody can begin to talk to it.
DIALS_OUT_ONLY = """
table inet guard {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
    }
}
"""


def why_not() -> str | None:
    """Return why no namespaces can be made here; None if they can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"no network namespaces without {program} (Debian's package {package})"
    name = f"{PREFIX}{_owner(os.getpid())}-trial{threading.get_ident() % 1000}"
    try:
        # A sandbox may allow one, and not the others.
        with Namespace(name) as trial:
            trial.guard()
            _ip("-n", name, "link", "add", "trial", "type", "veth", "peer", "name", "other")
            _ip("-n", name, "link", "add", "bridge", "type", "bridge")
    except subprocess.CalledProcessError as exc:
        return f"no network namespaces can be made here: {exc.stderr.strip()}"
    return None


class Namespace:
    """One network namespace, from `__enter__` until `__exit__`, which ends all that runs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Its address on the bridge; empty while it has none.
        self.address = ""
        self._switch = ""

    def __enter__(self) -> Namespace:
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_error: object) -> None:
        _remove(self.name)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and what it starts meanwhile, be in it: sockets stay where they were made."""
        with Path("/proc/thread-self/ns/net").open() as before, (PLACE / self.name).open() as inside:
            _set_namespace(inside.fileno())
            try:
                yield
            finally:
                _set_namespace(before.fileno())

    def plug_in(self, switch: str, number: int) -> None:
        """Connect it to the bridge in the namespace `switch`."""
        self.address, self._switch = NETWORK.replace("0/24", str(number)), switch
        port = f"port{number}"
        _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")

    def cut(self) -> None:
        """Pull its cable: connections stay, and nothing goes through them."""
        _ip("-n", self._switch, "link", "set", f"port{self.address.rpartition('.')[2]}", "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip("-n", self._switch, "link", "set", f"port{self.address.rpartition('.')[2]}", "up")

    def guard(self) -> None:
        """Let nobody begin to talk to it from now on."""
        with self.entered():
            _run(["nft", "-f", "-"], DIALS_OUT_ONLY)

    def unguard(self) -> None:
        """Let everybody talk to it again."""
        with self.entered():
            _run(["nft", "delete", "table", "inet", "guard"])

    def processes(self) -> list[int]:
        """All processes in it that are not the tests'."""
        try:
            ours = (PLACE / self.name).stat().st_ino
        except FileNotFoundError:
            return []
        found = []
        for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
            # One that has gone meanwhile, or waits to be noticed, is in none.
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/ns/net").stat().st_ino == ours and pid != os.getpid():
                    found.append(pid)
        return found

    def kill(self) -> None:
        """SIGKILL everything in it, as a power cut would."""
        _kill_all(self)


class Topology:
    """Namespaces by their names, connected by a bridge."""

    def __init__(self, names: Sequence[str]) -> None:
        owner = f"{PREFIX}{_owner(os.getpid())}-"
        # Several files of tests may have one each, in one process after the other.
        self._switch = Namespace(f"{owner}switch")
        self.hosts = {name: Namespace(f"{owner}{name}") for name in names}

    def __enter__(self) -> Topology:
        remove_leftovers()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._switch)
            _ip("-n", self._switch.name, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch.name, "link", "set", "bridge", "up")
            for number, host in enumerate(self.hosts.values(), start=1):
                stack.enter_context(host).plug_in(self._switch.name, number)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


def remove_leftovers() -> None:
    """Remove the namespaces of runs that are over, with all that runs in them still."""
    for path in PLACE.glob(f"{PREFIX}*"):
        pid, _, start = path.name.removeprefix(PREFIX).partition("-")[0].partition(".")
        found = ProcessIdentity.of(int(pid)) if pid.isdecimal() else None
        if found is None or str(found.start_ticks) != start:
            _remove(path.name)


def _owner(pid: int) -> str:
    identity = ProcessIdentity.of(pid)
    assert identity is not None
    return f"{pid}.{identity.start_ticks}"


def _remove(name: str) -> None:
    _kill_all(Namespace(name))
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("netns", "delete", name)


def _kill_all(namespace: Namespace) -> None:
    def is_empty() -> bool:
        # One that was just starting another is found with the next look.
        for pid in namespace.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not namespace.processes()

    assert eventually(is_empty, 10.0), f"{namespace.name} has processes that do not end"


def _set_namespace(descriptor: int) -> None:
    # `os.setns` came with Python 3.12.
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str], text: str = "") -> None:
    subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=20)
