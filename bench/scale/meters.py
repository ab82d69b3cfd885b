"""What PostgreSQL, a broker and processes have done so far; two readings make a cost."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from core.settings import process_environment
from tests.own_servers import RABBITMQ, OwnRabbit, OwnRedis

#: What has been counted, by what it is.
Reading = Mapping[str, float]

_DATABASE = """
    SELECT xact_commit + xact_rollback, tup_returned, tup_fetched, tup_inserted + tup_updated + tup_deleted
    FROM pg_stat_database WHERE datname = current_database()
"""
_TICKS = os.sysconf("SC_CLK_TCK")


def read_postgres(url: str) -> Reading:
    """Return the ledger's transactions, the rows it looked at and wrote, and the bytes of its log."""
    with psycopg.connect(url, autocommit=True) as connection:
        # What backends have counted becomes visible when they are idle for a moment.
        found = connection.execute(_DATABASE).fetchone()
        log = connection.execute("SELECT wal_bytes FROM pg_stat_wal").fetchone()
    assert found is not None
    assert log is not None
    names = ("transactions", "rows read", "rows fetched", "rows written")
    return {**dict(zip(names, map(float, found), strict=True)), "log bytes": float(log[0])}


def read_rabbit(server: OwnRabbit) -> Reading:
    """Return the messages that came in and went out, and all bytes that did."""
    told = _evaluated(server, "{rabbit_global_counters:overview(), erlang:statistics(io)}.")
    received = sum(map(int, re.findall(r"messages_received_total\s*(?:=>|,)\s*(\d+)", told)))
    delivered = sum(map(int, re.findall(r"messages_delivered_total\s*(?:=>|,)\s*(\d+)", told)))
    moved = re.search(r"\{input,\s*(\d+)\},\s*\{output,\s*(\d+)\}", told)
    assert moved is not None, told[-500:]
    return {
        "messages in": float(received),
        "messages out": float(delivered),
        "broker bytes": float(moved[1]) + float(moved[2]),
    }


def _evaluated(server: OwnRabbit, expression: str) -> str:
    program = RABBITMQ.with_name("rabbitmqctl")
    variables = {"HOME": str(server.folder), "PATH": process_environment()["PATH"], "LANG": "C.UTF-8"}
    command = [str(program), "-n", server.node, "eval", expression]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def read_redis(server: OwnRedis) -> Reading:
    """Return the commands that came in, and all bytes that went in and out."""
    with redis.Redis.from_url(server.url) as client:
        told = client.info()
    moved = told["total_net_input_bytes"] + told["total_net_output_bytes"]
    return {"commands": float(told["total_commands_processed"]), "broker bytes": float(moved)}


@dataclass(frozen=True, kw_only=True)
class Stat:
    """A process: its parent, and the processor time it has had, ended children included."""

    parent: int
    cpu_s: float


def _stats() -> dict[int, Stat]:
    found = {}
    for entry in [path for path in Path("/proc").iterdir() if path.name.isdigit()]:
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        # Fields 4 and 14 to 17 of proc(5); the first two stand before the bracket.
        found[int(entry.name)] = Stat(parent=int(fields[1]), cpu_s=sum(map(int, fields[11:15])) / _TICKS)
    return found


def cpu_of(roots: Iterable[int]) -> float:
    """Return the processor time of processes and all that they started, in seconds."""
    stats = _stats()
    wanted, total_s = set(roots), 0.0
    for pid, stat in sorted(stats.items()):
        above = pid
        while above in stats and above not in wanted:
            above = stats[above].parent
        if above in wanted:
            total_s += stat.cpu_s
    return total_s


class Meters:
    """Reads everything at once."""

    def __init__(self, readers: Iterable[Callable[[], Reading]], processes: Mapping[str, Iterable[int]]) -> None:
        """Parameters: processes - by the name of their part, the ids of those that began it."""
        self._readers, self._processes = list(readers), {name: list(ids) for name, ids in processes.items()}

    def read(self) -> Reading:
        """Return what has been counted so far."""
        found: dict[str, float] = {}
        for reader in self._readers:
            found |= reader()
        return found | {f"cpu s, {name}": cpu_of(ids) for name, ids in self._processes.items()}
