"""The whole stack on one machine: which processes, on which ports, started and ended in which order."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.local.broker import broker_lock, broker_spec, start_broker, stop_broker
from cli.local.processes import ProcessSet, ProcessSpec, StopSignals
from cli.local.startup_checks import broker_problem, settle_key, settle_storage
from comfy.process.spec import REPOSITORY_ROOT, InstanceSpec
from core.errors import ConfigurationError
from core.ledger.upgrade import migrate
from core.settings import Settings, process_environment
from core.startup import listening_problem
from tasks.instance.plan import plan_instances

#: A worker whose job was not done in its grace time gets this much more to give it back and to end its ComfyUI.
GIVE_BACK_S = 15.0
#: Idle processes end within about two seconds; who takes longer has a reason that people want to hear.
HINT_AFTER_S = 3.0
#: Settings that name a file or directory, which may be given relative to where we are.
PATHS = (
    *("storage_dir", "workflows_dir", "models_dir", "warmup_workflow", "ca_bundle", "broker_ca"),
    *("comfyui_dir", "comfyui_python"),
)
WILDCARDS = ("0.0.0.0", "::")
RELATIVE_SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where people reach the stack from this machine."""

    api: str
    flower: str
    #: Of ComfyUI's own protocol.
    comfyui: str


def addresses(settings: Settings) -> Addresses:
    """Return the base URLs; a wildcard host is reached by loopback."""
    api_host = _reachable(settings.api_host)
    return Addresses(
        api=f"http://{api_host}:{settings.api_port}",
        flower=f"http://{_reachable(settings.flower_host)}:{settings.flower_port}",
        comfyui=f"http://{api_host}:{settings.comfyui_port}/"
        if settings.comfyui_port
        else f"http://{api_host}:{settings.api_port}/comfyui/",
    )


def first_key(settings: Settings) -> str:
    """Return an API key that our own API accepts; empty when it asks for none."""
    return settings.api_keys[0] if settings.api_keys else ""


def check_ports(settings: Settings) -> None:
    """Make sure that the stack can listen where it shall, before anything is started.

    Raises:
      ConfigurationError: names the port and the setting to change.
    """
    if settings.api_port == settings.flower_port:
        raise ConfigurationError(
            f"COMFYLINE_API_PORT and COMFYLINE_FLOWER_PORT are both {settings.api_port}; change one."
        )
    _check("COMFYLINE_API", "the API", settings.api_host, settings.api_port)
    _check("COMFYLINE_FLOWER", "Flower", settings.flower_host, settings.flower_port)
    if settings.metrics_port is not None:
        _check("COMFYLINE_METRICS", "the API's port for metrics", settings.metrics_host, settings.metrics_port)


def child_environment(settings: Settings, overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of our processes: ours, with paths that mean the same in another working directory."""
    ours = process_environment()
    # Secrets from files have been read; their paths may be relative to where we are.
    environment = {name: ours[name] for name in ours if not (name.endswith("_FILE") and name[:-5] in ours)}
    environment |= overrides
    environment["COMFYLINE_DATA_DIR"] = str(settings.data_dir)
    # Empty is none: of another port that is taken they would tell once more.
    environment["COMFYLINE_COMFYUI_PORT"] = str(settings.comfyui_port or "")
    for name in PATHS:
        path: Path | None = getattr(settings, name)
        if path is not None:
            environment[f"COMFYLINE_{name.upper()}"] = str(path.expanduser().absolute())
    if settings.database_url.startswith(RELATIVE_SQLITE):
        environment["COMFYLINE_DATABASE_URL"] = RELATIVE_SQLITE + str(
            Path(settings.database_url.removeprefix(RELATIVE_SQLITE)).absolute()
        )
    # A log must hold the last words of a process that was killed.
    return environment | {"PYTHONUNBUFFERED": "1"}


class Stack:
    """Everything `comfyline up` runs. Use it from one thread that lives as long as the stack."""

    def __init__(
        self,
        settings: Settings,
        *,
        overrides: Mapping[str, str],
        report: Callable[[str], None],
        beside: Sequence[ProcessSpec] = (),
    ) -> None:
        """Takes the settings, what of them the children cannot read from our environment, and who hears of events.

        Parameters:
          beside: programs that are not ours, to run with the others.

        Raises:
          ConfigurationError: the settings do not say which GPUs to use.
        """
        self.settings = settings
        self.instances: list[InstanceSpec] = plan_instances(settings)
        self._environment = child_environment(settings, overrides)
        self._report = report
        self._beside = {spec.name: spec for spec in beside}
        self.processes = ProcessSet(report=report)

    @property
    def names(self) -> list[str]:
        """The processes in the order in which they are asked to end; the broker comes after them."""
        return ["api", *(spec.name for spec in self.instances), "io", "beat", "flower", *self._beside]

    @property
    def logs_dir(self) -> Path:
        return self.settings.data_dir / "logs"

    @contextlib.contextmanager
    def running(self, stop: StopSignals) -> Iterator[None]:
        """Run the stack for the time of the block, and leave nothing behind.

        Raises:
          ConfigurationError: a port is taken, another fleet runs in the data directory, or the broker refuses us.
          LedgerUnavailable, BrokerUnavailable: what the stack stands on does not start.
        """
        with broker_lock(self.settings):
            # After the lock: another fleet in this directory is the better explanation of a taken port.
            check_ports(self.settings)
            if not self.settings.has_embedded_broker and (problem := broker_problem(self.settings)):
                # Asked here, so that one who refuses us is told of once, and not by each process again and again.
                self._report(problem)
            migrate(self.settings)
            settle_key(self.settings, self._report)
            settle_storage(self.settings, self._report)
            try:
                self._start()
                yield
            finally:
                self._stop(stop)

    def _start(self) -> None:
        if self.settings.has_embedded_broker:
            start_broker(self.processes, broker_spec(self.settings, self._environment), self.settings)
        for name in self.names:
            self.processes.start(self._spec(name))

    def _spec(self, name: str) -> ProcessSpec:
        if name in self._beside:
            return self._beside[name]
        arguments = [name] if name in ("api", "io", "beat", "flower") else ["worker", name]
        return fleet_process(name, *arguments, environment=self._environment, log=self.logs_dir / f"{name}.log")

    def _stop(self, stop: StopSignals) -> None:
        names = [name for name in self.names if name in self.processes.children]
        asked_before = stop.count
        started_at = time.monotonic()
        self.processes.ask_to_end(names)
        left = self.processes.wait(names, until=lambda: time.monotonic() > started_at + HINT_AFTER_S)
        if left:
            grace_s = self.settings.drain_grace_s + GIVE_BACK_S
            again = " again" if asked_before else ""
            self._report(f"Waiting up to {grace_s:.0f} s for {', '.join(left)} to end; Ctrl-C{again} does not wait.")
            self.processes.wait(
                left, until=lambda: stop.count > asked_before or time.monotonic() > started_at + grace_s
            )
        self.processes.kill(names)
        if "broker" in self.processes.children:
            stop_broker(self.processes, self.settings)
        self.processes.sweep()


def fleet_process(name: str, *arguments: str, environment: Mapping[str, str], log: Path | None = None) -> ProcessSpec:
    """One of our own commands as a process."""
    # From the directory that holds our packages: elsewhere `comfy` could be ComfyUI's.
    command = (sys.executable, "-m", "cli.main", *arguments)
    return ProcessSpec(name=name, command=command, environment=environment, cwd=REPOSITORY_ROOT, log=log)


def free_ports(count: int) -> list[int]:
    """Different ports on loopback that nobody listens on now."""
    with contextlib.ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _check(prefix: str, who: str, host: str, port: int) -> None:
    problem = listening_problem(host, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRINUSE:
        raise ConfigurationError(
            f"{prefix}_PORT: port {port} on {host}, meant for {who}, is taken by another program. "
            f"Stop that one, or choose another port, for instance {prefix}_PORT={free_ports(1)[0]}."
        ) from problem
    raise ConfigurationError(
        f"{prefix}_HOST, {prefix}_PORT: {who} cannot listen on {host}:{port}: {problem.strerror}."
    ) from problem


def _reachable(host: str) -> str:
    if host in WILDCARDS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
