"""The tables of the ledger, for SQLite and PostgreSQL. Times are integers: milliseconds since 1970, UTC."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

_IS_WAITING = text("status = 'queued'")
_IS_COUNTED = text("status = 'queued' AND workflow IS NOT NULL")
_IS_PINNED = text("status = 'queued' AND catalogues IS NOT NULL")
_IS_LOST = text("status = 'queued' AND lost_on IS NOT NULL")
_IN_BATCH = text("batch IS NOT NULL")
_IS_SHARED = text("shared_graph IS NOT NULL")
_IS_LABELLED = text("label IS NOT NULL")
_HAS_DEADLINE = text("status = 'queued' AND start_by_ms IS NOT NULL")

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    # Who owns it, with all that hangs on it.
    Column("tenant", String(64), nullable=False, server_default="default"),
    # The key that submitted it; NULL without one, and for a key of the settings.
    Column("key_id", String(36)),
    # A client's word to find it by.
    Column("label", String(128)),
    # The batch it is a child of, its place there from 0, and what was varied to make it: {name: value}.
    Column("batch", String(36)),
    Column("batch_index", Integer),
    Column("varied", JSON(none_as_null=True)),
    # The failed job that it was made to replace.
    Column("replaces", String(36)),
    # The job it runs once more, what of it was drawn, and the names of the secrets it came with.
    Column("rerun_of", String(36)),
    Column("drawn", JSON(none_as_null=True)),
    Column("secret_names", JSON(none_as_null=True)),
    Column("contract", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    # Tries that ended because an instance or worker was lost, not because of the job.
    Column("lost_attempts", Integer, nullable=False),
    # The instance that lost it last, and the code of that loss: the next try is better made elsewhere.
    Column("lost_on", String(255)),
    Column("lost_code", String(32)),
    # All of them, the oldest first: [{"attempt", "code", "instance", "gpu", "at_ms"}].
    Column("losses", JSON(none_as_null=True)),
    # Claimed ahead of time: it stands in ComfyUI's queue behind another prompt, and has not begun.
    Column("on_deck", Boolean, nullable=False, server_default=false()),
    Column("lease_until_ms", BigInteger),
    Column("instance", String(255)),
    # In its instance's words, which may be gone when somebody asks.
    Column("gpu", String(255)),
    Column("last_seq", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("nodes_total", Integer, nullable=False),
    # JSON text. Where it is made from one that is shared, only what is different: see core/graph_differences.py.
    Column("graph", Text, nullable=False),
    Column("shared_graph", String(36)),
    # What ComfyUI gives to nodes that ask for it, and writes into files: JSON text.
    Column("extra_pnginfo", Text),
    # Digests of the catalogues it may run on, joined by commas; NULL means any.
    Column("catalogues", Text),
    # The line it stands in while it waits; NULL of earlier versions.
    Column("line", Integer),
    # What a GPU must be to run it: {"pool", "vram_gb"}.
    Column("requires", JSON(none_as_null=True)),
    # How long it may wait for its first GPU, and until when that is: NULL once it has begun.
    Column("start_within_s", Float),
    Column("start_by_ms", BigInteger),
    # W3C trace context of the request it came with; NULL of earlier versions.
    Column("traceparent", String(55)),
    Column("metadata", JSON),
    # The template it was filled from, and the final values of its parameters, drawn seeds included.
    Column("workflow", String(64)),
    Column("parameters", JSON),
    # What its duration is learned under.
    Column("shape", String(64)),
    # Files to be there before it runs: [{"name", "key"}].
    Column("inputs", JSON(none_as_null=True)),
    # What is to be done with its outputs: {"s3", "convert", "strip_metadata"}.
    Column("delivery", JSON(none_as_null=True)),
    Column("own_request_id", String(128)),
    # Not read: of earlier versions, where it is unique in the whole fleet.
    Column("request_id", String(128), unique=True),
    # Of the request's body, keyed: the same request_id with the same body is the same request. NULL where there is no
    # request_id, and of a job that was cancelled because its callers had hung up.
    Column("request_mark", String(80)),
    # How many requests asked for this job and have not hung up.
    Column("callers", Integer, nullable=False, server_default="1"),
    Column("expected_time_s", Float),
    Column("webhook", JSON),
    Column("timeout_s", Float),
    Column("progress", JSON),
    Column("error", JSON),
    Column("outputs_reused", Boolean),
    # Branches that a node blocked with a message, although the job went on: [{"message", "node_id", "class_type"}].
    Column("warnings", JSON(none_as_null=True)),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("started_at_ms", BigInteger),
    Column("generated_at_ms", BigInteger),
    # Turns at delivering its outputs that came to no end: faults of ours, and processes that died.
    Column("delivery_losses", Integer, nullable=False, server_default="0"),
    # Milliseconds that it had a GPU: of the attempt that brought it to its end, and of all that were lost before.
    Column("run_ms", BigInteger, nullable=False, server_default="0"),
    Column("load_ms", BigInteger, nullable=False, server_default="0"),
    Column("lost_ms", BigInteger, nullable=False, server_default="0"),
    # What its tenant was charged for the newest attempt when it was claimed; NULL where nobody is charged.
    Column("charged_ms", BigInteger),
    Column("completed_at_ms", BigInteger),
    Column("expires_at_ms", BigInteger, nullable=False),
    # The same for its files, which may go earlier; and whether they have gone.
    Column("files_expire_at_ms", BigInteger, nullable=False, server_default="0"),
    Column("files_removed", Boolean, nullable=False, server_default=false()),
    # When its client took it out of its history; it is kept all the same.
    Column("hidden_at_ms", BigInteger),
    # Every look-up by status; pages of one, and of one of a tenant, however many jobs have ended.
    Index("jobs_by_status", "status", "created_at_ms", "id"),
    Index("jobs_newest", "created_at_ms", "id"),
    Index("jobs_by_owner", "tenant", "status", "created_at_ms", "id"),
    Index("jobs_by_request", "own_request_id", "tenant", unique=True),
    Index("jobs_by_batch", "batch", "batch_index", sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH),
    Index("jobs_of_batch", "batch", "status", "batch_index", sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH),
    Index("jobs_by_shared_graph", "shared_graph", sqlite_where=_IS_SHARED, postgresql_where=_IS_SHARED),
    Index("jobs_by_label", "label", "created_at_ms", "id", sqlite_where=_IS_LABELLED, postgresql_where=_IS_LABELLED),
    Index("jobs_expiry", "expires_at_ms"),
    Index("jobs_files_expiry", "files_removed", "files_expire_at_ms"),
    Index(
        "jobs_by_template",
        "workflow",
        "created_at_ms",
        "id",
        sqlite_where=text("workflow IS NOT NULL"),
        postgresql_where=text("workflow IS NOT NULL"),
    ),
    # Waiting jobs, to be counted by template; and those that only some instances may run, however many others wait.
    Index("jobs_waiting", "workflow", sqlite_where=_IS_COUNTED, postgresql_where=_IS_COUNTED),
    Index("jobs_pinned", "id", sqlite_where=_IS_PINNED, postgresql_where=_IS_PINNED),
    # The oldest job of a line, and the one with the nearest deadline.
    Index("jobs_line", "line", "created_at_ms", "id", sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING),
    # Those of a shape, in each line.
    Index("jobs_shape", "shape", "line", sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING),
    # Those that an instance lost.
    Index("jobs_lost", "lost_on", sqlite_where=_IS_LOST, postgresql_where=_IS_LOST),
    Index("jobs_deadline", "line", "start_by_ms", sqlite_where=_HAS_DEADLINE, postgresql_where=_HAS_DEADLINE),
    # The one of all lines that has to begin first.
    Index("jobs_start_by", "start_by_ms", sqlite_where=_HAS_DEADLINE, postgresql_where=_HAS_DEADLINE),
)

# Waiting jobs that the scheduling policy need not tell apart. What a line is never changes, only what stands in it.
lines = Table(
    "lines",
    metadata,
    Column("id", Integer, primary_key=True),
    # SHA-256 of what makes the line.
    Column("digest", String(64), nullable=False, unique=True),
    Column("priority", Integer, nullable=False),
    Column("tenant", String(64), nullable=False),
    # Names the set of model files; empty without any.
    Column("models", String(64), nullable=False),
    Column("files", JSON, nullable=False),
    # As in jobs.
    Column("catalogues", Text),
    Column("requires", JSON(none_as_null=True)),
    # Kinds of GPU that its jobs are kept off: [[kind, bytes of memory or null]].
    Column("avoids", JSON(none_as_null=True)),
    # The batch of its jobs, where that has a gate; empty for all others.
    Column("batch", String(36), nullable=False, server_default=""),
    # How many jobs wait, when the oldest of them came, and the nearest time by which one has to begin.
    Column("waiting", Integer, nullable=False, server_default="0"),
    Column("head_ms", BigInteger),
    Column("start_by_ms", BigInteger),
    Column("updated_at_ms", BigInteger, nullable=False),
    # How many jobs of a tenant wait.
    Index("lines_by_tenant", "tenant"),
)

# The errors of failed jobs that are too long for their rows, as compressed JSON, shaped as `error` there.
job_errors = Table(
    "job_errors",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("error", LargeBinary, nullable=False),
)

# Which files in storage a job takes in: `inputs` of its row, where they can be asked for by their key.
job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("storage_key", String(255), primary_key=True),
    Index("job_inputs_by_key", "storage_key"),
)

events = Table(
    "events",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

assets = Table(
    "assets",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("node_id", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("type", String(16), nullable=False),
    Column("content_type", String(255), nullable=False),
    Column("comfy_type", String(16), nullable=False),
    Column("comfy_key", String(64), nullable=False),
    Column("subfolder", Text, nullable=False),
    # Where the GPU host left the file: {"root", "path"} on its disk, {"url"} of its instance, or {"text"} itself.
    Column("source", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("hash", String(80)),
    Column("storage_key", Text),
    # How it fared in a bucket: {"url", "expires_at_ms", "key"} or {"error"}; with {"conversion_error"} where it is not
    # as the client wanted it. {"missing"}: it never was in storage.
    Column("upload", JSON(none_as_null=True)),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("assets_by_job", "job_id", "ordinal"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Column("hash", String(80), nullable=False),
    # A path relative to ComfyUI's input folder, as the client gave it.
    Column("name", Text, nullable=False),
    Column("content_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # Equal files share one.
    Column("storage_key", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    # The job it was fetched or decoded for, with which it goes; NULL where a client uploaded it.
    Column("job_id", String(36)),
    # Of a picture that was looked into: the limit of pixels that it was found within.
    Column("checked_pixels", BigInteger),
    Index("uploads_by_hash", "hash"),
    Index("uploads_by_job", "job_id"),
    Index("uploads_by_name", "name"),
    Index("uploads_by_key", "storage_key"),
    Index("uploads_expiry", "expires_at_ms"),
)

_IS_KEPT = text("sealed IS NOT NULL")

secrets = Table(
    "secrets",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # run, bucket, webhook, address, any
    Column("purpose", String(16), primary_key=True),
    # NULL: wiped after its last use.
    Column("sealed", LargeBinary),
    Index("secrets_kept", "purpose", sqlite_where=_IS_KEPT, postgresql_where=_IS_KEPT),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    # Decides which headers go with it; the shape of the body is in the body.
    Column("contract", String(16), nullable=False, server_default="generate"),
    Column("event", String(32), nullable=False),
    # The batch that it tells of, by way of the job with which that came about; NULL: it tells of the job itself.
    Column("batch", String(36)),
    # The number of the job's event that it tells of, or which completion of the batch.
    Column("seq", Integer, nullable=False, server_default="0"),
    # Up to its question mark: the query is among the secrets. Whole in rows of earlier versions.
    Column("url", Text, nullable=False),
    # Scheme, host and port of the URL.
    Column("receiver", String(255), nullable=False, server_default=""),
    Column("timeout_s", Float, nullable=False),
    Column("body", Text, nullable=False),
    # pending, sending, delivered, dead
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    # Tries made before it was last replayed: the schedule counts those after it.
    Column("tries_before", Integer, nullable=False, server_default="0"),
    # When anybody may try it; while it is being sent, when its sender is taken for dead. NULL once it has ended.
    Column("next_try_at_ms", BigInteger),
    # Of the last try, as in delivery_attempts.
    Column("status_code", Integer),
    Column("error", Text),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Index("deliveries_due", "next_try_at_ms", "seq"),
    Index("deliveries_newest", "created_at_ms", "id"),
    Index("deliveries_by_job", "job_id"),
    Index("deliveries_by_batch", "batch", sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH),
    Index("deliveries_by_receiver", "receiver", "next_try_at_ms"),
)

delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", String(36), ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("status_code", Integer),
    # Why it counts as failed; NULL: it arrived.
    Column("error", Text),
)

instances = Table(
    "instances",
    metadata,
    # gpu0@host
    Column("name", String(255), primary_key=True),
    Column("host", String(255), nullable=False),
    # Celery node name of the worker that owns it, unique per boot.
    Column("worker", String(255), nullable=False),
    # Machine and directory of that worker (see tasks/instance/directory_lock.py), and its process there; NULL of
    # earlier versions.
    Column("place", String(255)),
    Column("pid", Integer),
    # simulator, comfyui, attached
    Column("kind", String(16), nullable=False),
    Column("gpu", String(255)),
    # One of the states in core/ledger/instances.py.
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    # An operator wants it to take no jobs; outlives its worker.
    Column("is_drained", Boolean, nullable=False, server_default=false()),
    # Its host is to be given back, since then; ends with the worker, or when an operator resumes it.
    Column("leaving_since_ms", BigInteger),
    Column("quarantined_until_ms", BigInteger),
    Column("url", Text),
    # Where the instance writes its outputs on its host; None when they can only be had over HTTP.
    Column("output_dir", Text),
    Column("version", String(64)),
    Column("device", Text),
    Column("catalogue", String(64)),
    # How often its worker looked for new files because somebody asked.
    Column("looks", Integer, nullable=False, server_default="0"),
    # Not read: workers of earlier versions write model files of the job they ran last.
    Column("models", JSON),
    # Those it is likely to hold, the most recently used first: [[name, bytes or null]]; and how many bytes it keeps.
    Column("held", JSON(none_as_null=True)),
    Column("memory_bytes", BigInteger),
    # When it will have done all it has claimed, as expected at the last claim.
    Column("free_at_ms", BigInteger),
    # Loads of models that jobs waited for, and how long they took, on one day (counted from 1970).
    Column("loads", Integer, nullable=False, server_default="0"),
    Column("loading_s", Float, nullable=False, server_default="0"),
    Column("loads_day", Integer, nullable=False, server_default="0"),
    # What jobs may require.
    Column("pool", String(64)),
    Column("vram_bytes", BigInteger),
    # Of that, what is in use, as the driver says; NULL where it is not asked.
    Column("vram_used_bytes", BigInteger),
    # Whether its host fetches model files.
    Column("fetches_models", Boolean, nullable=False, server_default=false()),
    # Files whose jobs it begins no more, see core/ledger/models/yields.py.
    Column("yields", JSON(none_as_null=True)),
    # Whether its worker listens to a queue of its own; those of earlier versions do not.
    Column("has_queue", Boolean, nullable=False, server_default=false()),
    Column("warmup_s", Float),
    Column("restarts", Integer, nullable=False),
    Column("started_at_ms", BigInteger, nullable=False),
    # When the instance answered for the first time after its last start.
    Column("up_since_ms", BigInteger),
    Column("heartbeat_at_ms", BigInteger, nullable=False),
)

# Which sets of model files an instance holds, all of them: `held` of its row, where it can be asked for.
residents = Table(
    "residents",
    metadata,
    Column("instance", String(255), ForeignKey("instances.name", ondelete="CASCADE"), primary_key=True),
    Column("models", String(64), primary_key=True),
)
