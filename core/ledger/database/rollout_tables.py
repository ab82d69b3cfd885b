"""The tables of the fleet's processes, and of rollouts: orders to renew them, host after host."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, text

from core.ledger.database.tables import metadata

_IS_RUNNING = text("state = 'running'")

# Each process of the fleet, from its start to its end.
processes = Table(
    "processes",
    metadata,
    # Of a GPU worker its Celery node name, as in `instances`.
    Column("id", String(255), primary_key=True),
    # gpu, io, api, beat
    Column("role", String(16), nullable=False),
    Column("host", String(255), nullable=False),
    # Whose code it runs: the version of Comfyline.
    Column("program", String(64), nullable=False),
    # Whether its host has a command that brings another version.
    Column("can_upgrade", Boolean, nullable=False),
    # What a rollout wants of it, see core/records/rollout.py.
    Column("renewal", String(16)),
    Column("started_at_ms", BigInteger, nullable=False),
    # Its last sign of life; that of a GPU worker stands in `instances`.
    Column("at_ms", BigInteger, nullable=False),
    Index("processes_by_host", "host"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(36), primary_key=True),
    # restart, upgrade
    Column("kind", String(16), nullable=False),
    # The version of Comfyline that an upgrade brings.
    Column("version", String(64)),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    # How many hosts at once; how long nothing may move on one; which share of jobs may fail on renewed ones, beyond
    # that of the others; how long a host is watched that has no job and no warm-up.
    Column("at_once", Integer, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("max_failures", Float, nullable=False),
    Column("watch_s", Float, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    # When somebody went on with it last.
    Column("looked_at_ms", BigInteger, nullable=False),
    Column("ended_at_ms", BigInteger),
    # One at a time.
    Index("rollouts_running", "state", unique=True, sqlite_where=_IS_RUNNING, postgresql_where=_IS_RUNNING),
    Index("rollouts_newest", "created_at_ms", "id"),
)

rollout_hosts = Table(
    "rollout_hosts",
    metadata,
    Column("rollout", String(36), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("host", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    # What ran on it when its turn came: {"before": [process], "gpus": {name: was healthy}, "roles": [role], "runner"}.
    Column("expects", JSON(none_as_null=True)),
    # What became of the command that upgrades: `ok`, or what went wrong; NULL while it runs.
    Column("command", Text),
    Column("began_at_ms", BigInteger),
    # When something moved last, and when all was healthy again.
    Column("moved_at_ms", BigInteger),
    Column("back_at_ms", BigInteger),
    Column("ended_at_ms", BigInteger),
)
