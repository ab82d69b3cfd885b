"""Every setting of the running system, typed: field, default, limits, and the paths and URLs that follow from them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from core.log_format import LogStyle
from core.object_keys import DEFAULT_TEMPLATE
from core.records.scaling_rules import ScalingRules
from core.records.tenant_limits import LIMITS, TenantLimits
from core.settings.socket_folder import socket_folder
from core.settings.value_types import (
    AbsolutePath,
    BrokerUrl,
    CertificateFile,
    CommaList,
    CommandLine,
    DatabaseUrl,
    DistinctNames,
    GpuPrices,
    HostNames,
    InstanceUrls,
    KeyTemplate,
    Networks,
    Origins,
    Pauses,
    PoolRanges,
    StorageUrl,
    WebUrl,
    named_values,
    plain_name,
)

PREFIX = "COMFYLINE_"
#: The largest limit of a tenant, and of its bytes: what databases hold, and JSON's numbers.
MOST, MOST_BYTES = 2**31 - 1, 2**53 - 1
#: The kernel's limit for a unix socket path is 108 bytes with its closing zero.
LONGEST_SOCKET_PATH = 100


class Settings(BaseSettings):
    """Everything an operator can set. Field `x_y` is the variable `COMFYLINE_X_Y` unless an alias says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    # --- where things are -------------------------------------------------------------------------------------------
    #: Everything a single machine keeps: ledger, broker files, outputs, logs.
    data_dir: AbsolutePath = Path(".comfyline")
    #: Outputs and uploads, on a file system that every machine of the fleet sees; empty means the data directory.
    storage_dir: AbsolutePath | None = None
    #: `s3://bucket/prefix`: outputs and uploads in a bucket, in place of a directory; nothing is shared then.
    storage_url: StorageUrl = ""
    #: Of that bucket; empty means Amazon's own for the region.
    storage_endpoint_url: str = ""
    #: Empty means what boto3 finds in the environment or a profile, else us-east-1.
    storage_region: str = ""
    #: Both or none: then boto3 looks for credentials where it always does.
    storage_access_key_id: str = Field("", repr=False)
    storage_secret_access_key: SecretStr = SecretStr("")
    #: Empty means by path where there is an endpoint, else virtual.
    storage_addressing: Literal["", "path", "virtual"] = ""
    #: Whether signed links to files lead on to the bucket, which clients then have to reach.
    storage_redirect: bool = False
    #: Seconds of silence of a GPU's worker after which files that are not in the bucket yet are given up as lost.
    host_lost_s: float = Field(300.0, ge=30, allow_inf_nan=False)
    #: SQLAlchemy URL of the ledger; empty means SQLite in the data directory.
    database_url: DatabaseUrl = Field("", repr=False)
    #: kombu URL of the broker (redis://, amqp://); empty means the embedded one in the data directory.
    broker_url: BrokerUrl = Field("", repr=False)
    #: A PEM file of the authorities that a broker's TLS certificate is by (rediss://, amqps://); None: the system's.
    broker_ca: CertificateFile | None = None
    #: Prefix of every key on a shared Redis, and of our exchanges. On a shared RabbitMQ use a virtual host of its own.
    broker_namespace: str = "comfyline"

    #: How the logs of all processes look: lines for people, or one JSON object a line.
    log_format: LogStyle = "text"
    #: Of what ComfyUI prints while a job runs, bytes that are kept with the job; 0: none.
    job_log_bytes: int = Field(64 * 1024, ge=0, le=1024 * 1024)

    # --- HTTP -------------------------------------------------------------------------------------------------------
    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=1, le=65535)
    #: Where ComfyUI's own protocol is served at `/`, beside `/comfyui/` of the API; None: 8188 in `up`, else nowhere.
    comfyui_port: int | None = Field(None, ge=1, le=65535)
    #: Requests that have a line in the log, by the importance of how they ended; `off`: none.
    request_log: Literal["debug", "info", "warning", "error", "off"] = "info"
    #: Where metrics are served without a key, beside `/metrics` of the API; None: nowhere.
    metrics_port: int | None = Field(None, ge=1, le=65535)
    metrics_host: str = "127.0.0.1"
    #: Seconds between a process's reports of what it has counted; GPU workers, which are many, take six times as long.
    metrics_report_s: float = Field(10.0, ge=0.5, le=60, allow_inf_nan=False)
    #: gunicorn worker processes of the API.
    api_processes: int = Field(1, ge=1, le=64)
    #: Keys a client must present as `Authorization: Bearer ...`; none leaves the API open.
    api_keys: CommaList = Field((), repr=False)
    #: Where clients reach the API when a proxy rewrites the Host header, for instance https://api.example.com.
    public_url: str = ""
    #: Networks of the proxies that are believed when they say whose request it is: CIDRs, `loopback`, `private`.
    trusted_proxies: Networks = ()
    #: Further names in the Host header that an API without keys goes by; `*` for any.
    allowed_hosts: HostNames = ()
    #: Pages of other sites that may use the API from a browser: exact origins.
    cors_origins: Origins = ()
    max_body_bytes: int = Field(20 * 1024 * 1024, ge=1024)
    max_json_depth: int = Field(64, ge=8, le=500)
    #: Largest file that clients may upload, or have fetched.
    max_upload_bytes: int = Field(100 * 1024 * 1024, ge=1024)
    #: Largest picture among them, in bytes, and in pixels of one frame.
    max_image_bytes: int = Field(25 * 1024 * 1024, ge=1024)
    max_image_pixels: int = Field(64_000_000, ge=1)
    #: Networks beyond the public internet that URLs of clients may lead to: CIDRs, `loopback`, `private`.
    allow_networks: Networks = ()
    #: A PEM file of authorities that HTTPS servers behind clients' URLs may also be certified by.
    ca_bundle: CertificateFile | None = None
    #: Seconds for which a link to a file needs no key; at most as long as the file is kept.
    link_s: float = Field(7 * 24 * 3600.0, ge=1, allow_inf_nan=False)
    #: A client that hangs up on /generate/sync, /generate/stream or /prompt cancels its job, unless others want it too.
    cancel_on_hangup: bool = True
    #: Jobs that may wait at once; one more is refused with `queue_full`.
    max_queued: int = Field(100_000, ge=1)
    #: Jobs of a tenant that may run at once, where it has no limit of its own; None: any number.
    #: The highest priority that a job may have.
    max_priority: int = Field(1_000_000, ge=-1_000_000, le=1_000_000)

    # --- what each tenant may have at most, unless something else is set for it; None: as much as it likes ----------
    tenant_max_waiting: int | None = Field(None, ge=0, le=MOST)
    tenant_max_running: int | None = Field(None, ge=0, le=MOST)
    tenant_max_requests_per_minute: int | None = Field(None, ge=0, le=MOST)
    tenant_max_kept_bytes: int | None = Field(None, ge=0, le=MOST_BYTES)
    tenant_max_gpu_s_per_day: float | None = Field(None, ge=0, le=MOST, allow_inf_nan=False)

    # --- Flower -----------------------------------------------------------------------------------------------------
    flower_host: str = "127.0.0.1"
    flower_port: int = Field(5555, ge=1, le=65535)
    #: `user:password`; generated, kept in the data directory and printed when empty.
    flower_basic_auth: SecretStr = SecretStr("")

    #: Where `comfyline up` has a Prometheus listen that is installed, on 127.0.0.1; 0: it starts none.
    prometheus_port: int = Field(9490, ge=0, le=65535)

    # --- GPUs and ComfyUI -------------------------------------------------------------------------------------------
    #: CUDA indices or UUIDs; empty means every GPU that the driver lists.
    gpus: DistinctNames = ()
    #: Label of this machine's GPUs, which jobs may require; empty: none.
    pool: str = Field("", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$|^$")
    #: Models that an instance keeps in memory beside those of its last prompt, in GB (10^9 bytes).
    model_memory_gb: float = Field(0.0, ge=0, le=4096)
    #: How many simulated GPUs to start where there is neither a GPU nor a ComfyUI.
    simulated_gpus: int = Field(2, ge=1, le=64)
    #: Command-line arguments for each simulator, for instance `--simulate-speed 0`.
    simulator_args: str = ""
    #: A ComfyUI checkout to run, one instance per GPU.
    comfyui_dir: Path | None = None
    #: The Python interpreter of that checkout; empty means its own venv, else `python3`.
    comfyui_python: Path | None = None
    #: Extra command-line arguments for ComfyUI.
    comfyui_args: str = ""
    #: Running instances to attach to instead of starting our own.
    comfyui_urls: InstanceUrls = Field((), repr=False)
    #: Seconds an instance may take to start.
    comfyui_start_timeout_s: float = Field(180.0, gt=0, allow_inf_nan=False)
    #: A folder of models shared by all instances, beside those of the checkout.
    models_dir: AbsolutePath | None = None
    #: Files of the manifest with one of these tags are kept in it.
    models_tags: CommaList = ()
    #: How much of it may be filled with fetched files; None: as much as the disk has.
    models_max_bytes: int | None = Field(None, ge=1)
    #: `name=token`, separated by commas: what the manifest names and does not say.
    models_tokens: SecretStr = SecretStr("")
    #: Where `hf://` and `s3://` lead; an empty endpoint means Amazon's own.
    models_hub_url: str = "https://huggingface.co"
    models_s3_endpoint_url: str = ""
    #: Whether the manifest may name sources by http://, and files of formats that can run code.
    models_allow_http: bool = False
    models_allow_code: bool = False
    #: A workflow that each instance runs after its start, before it takes jobs.
    warmup_workflow: Path | None = None
    #: Seconds a warm-up may take.
    warmup_timeout_s: float = Field(600.0, gt=0, allow_inf_nan=False)
    #: Failures of an instance within ten minutes after which it is quarantined.
    quarantine_after: int = Field(5, ge=1)
    #: Seconds a quarantine lasts.
    quarantine_s: float = Field(600.0, gt=0, allow_inf_nan=False)
    #: Seconds without a message about the running prompt, and without work of ComfyUI's processes, that mean stuck.
    stuck_idle_s: float = Field(120.0, gt=0, allow_inf_nan=False)
    #: Seconds without a message about the running prompt that mean stuck, whatever ComfyUI's processes do.
    stuck_s: float = Field(1800.0, gt=0, allow_inf_nan=False)
    #: Seconds an instance may answer nothing while its processes do no work, or nobody can see what they do.
    mute_idle_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    #: Seconds an instance may answer nothing although its processes work.
    mute_s: float = Field(1800.0, gt=0, allow_inf_nan=False)
    #: Seconds a running prompt gets to react to an interrupt before its instance is replaced.
    interrupt_grace_s: float = Field(30.0, gt=0, allow_inf_nan=False)
    #: Seconds a worker that is told to stop may go on with its running job.
    drain_grace_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    #: An instance whose disk has less free space takes no jobs.
    min_free_disk_bytes: int = Field(1024**3, ge=0)
    #: Input files of a bucket that this machine keeps, in GB (10^9 bytes); 0: none.
    input_cache_gb: float = Field(10.0, ge=0, allow_inf_nan=False)
    #: Input files that one GPU worker fetches at once, and jobs that it holds meanwhile.
    input_fetches: int = Field(16, ge=1, le=32)
    #: Seconds after which files in an instance's own directories are removed.
    instance_files_s: float = Field(24 * 3600.0, gt=0, allow_inf_nan=False)

    # --- jobs -------------------------------------------------------------------------------------------------------
    lease_s: float = Field(20.0, gt=0, allow_inf_nan=False)
    lease_renew_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    reconcile_s: float = Field(5.0, gt=0, allow_inf_nan=False)
    #: Tries at one job before it fails because instances or workers were lost under it.
    max_attempts: int = Field(3, ge=1)
    #: Longest run of one prompt, in seconds.
    job_timeout_s: float = Field(3600.0, gt=0, allow_inf_nan=False)
    #: Longest wait of a job for its first GPU, in seconds; 0 means no limit.
    queue_timeout_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    #: A second prompt is queued on an instance when the running one should end within this many seconds.
    look_ahead_s: float = Field(2.0, ge=0, allow_inf_nan=False)
    #: Seconds from its generation for which uploading a job's files to S3 is tried.
    upload_give_up_s: float = Field(900.0, ge=0, allow_inf_nan=False)
    #: Seconds between the tries at one webhook; when they are used up it is given up.
    webhook_schedule_s: Pauses = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
    #: Longest time that one try may take in all, in seconds.
    webhook_limit_s: float = Field(15.0, gt=0, le=300, allow_inf_nan=False)
    #: Webhooks that one io worker sends to one host and port at once.
    webhook_per_host: int = Field(4, ge=1, le=256)
    #: Seconds for which a host that failed five times in a row is left alone.
    webhook_break_s: float = Field(30.0, ge=0, allow_inf_nan=False)
    #: Seconds a finished job, its outputs and its events are kept.
    retention_s: float = Field(7 * 24 * 3600.0, gt=0, allow_inf_nan=False)
    #: The same for its files alone, where they are to go earlier; None: as long as the job.
    output_retention_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    #: What an hour on a kind of GPU costs, by a part of the kind's name: `RTX 4090=0.45 EUR, H100=2.50 EUR`.
    gpu_prices: GpuPrices = ()
    #: Seconds for which it is kept who did what, see docs/usage.md.
    audit_retention_s: float = Field(365 * 24 * 3600.0, gt=0, allow_inf_nan=False)

    # --- scaling ----------------------------------------------------------------------------------------------------
    #: Least and most GPUs of each pool that is scaled: `a100=0-8, -=1-`; `-` are GPUs without a label.
    autoscale_pools: PoolRanges = ()
    #: Seconds within which every job is to begin.
    autoscale_target_wait_s: float = Field(30.0, ge=1, le=86400, allow_inf_nan=False)
    #: A pool gives up no GPU that it needed within so many seconds.
    autoscale_idle_s: float = Field(300.0, ge=10, le=86400, allow_inf_nan=False)
    #: What is told when a pool wants another number of GPUs: a command that is run, a URL that is posted to.
    autoscale_command: CommandLine = Field("", repr=False)
    autoscale_webhook_url: WebUrl = Field("", repr=False)
    #: Signs what is posted; two, separated by a comma, while it is rotated.
    autoscale_webhook_secret: SecretStr = SecretStr("")

    # --- upgrades ---------------------------------------------------------------------------------------------------
    #: A command that brings another version of Comfyline to this host, for `comfyline rollout upgrade`.
    upgrade_command: CommandLine = Field("", repr=False)

    # --- workflows --------------------------------------------------------------------------------------------------
    #: A directory of further workflow templates; one of the same name as a shipped one wins.
    workflows_dir: AbsolutePath | None = None

    # --- secrets ----------------------------------------------------------------------------------------------------
    #: Base64 of 32 random bytes that seal secrets in the ledger; generated and kept in the data directory when empty.
    #: Several, separated by commas: the first seals, all of them open.
    secret_key: SecretStr = SecretStr("")
    #: Base64 of 32 random bytes, an ed25519 key that signs every webhook beside the secrets; empty: no such signature.
    webhook_signing_key: SecretStr = SecretStr("")

    # --- the names of the /generate contract ------------------------------------------------------------------------
    webhook_url: str = Field("", repr=False, validation_alias=plain_name("WEBHOOK_URL"))
    webhook_timeout_s: float = Field(
        30.0, gt=0, le=300, validation_alias=AliasChoices("WEBHOOK_TIMEOUT", "webhook_timeout_s")
    )
    #: For signing the events that go to `WEBHOOK_URL`, and no others. Two, separated by a comma, while it is rotated.
    webhook_secret: SecretStr = Field(SecretStr(""), validation_alias=plain_name("WEBHOOK_SECRET"))

    #: The bucket of `/generate` requests that name none: all of the first three, or none of them.
    s3_access_key_id: str = Field("", repr=False, validation_alias=plain_name("S3_ACCESS_KEY_ID"))
    s3_secret_access_key: SecretStr = Field(SecretStr(""), validation_alias=plain_name("S3_SECRET_ACCESS_KEY"))
    s3_bucket_name: str = Field("", validation_alias=plain_name("S3_BUCKET_NAME"))
    #: Empty means Amazon's own for the region.
    s3_endpoint_url: str = Field("", validation_alias=plain_name("S3_ENDPOINT_URL"))
    #: Also the region of requests that bring a bucket and no region.
    s3_region: str = Field("", validation_alias=plain_name("S3_REGION"))
    s3_session_token: SecretStr = Field(SecretStr(""), validation_alias=plain_name("S3_SESSION_TOKEN"))
    #: A folder of the bucket that everything goes below.
    s3_prefix: str = Field("", validation_alias=plain_name("S3_PREFIX"))
    #: How its keys are made, see `core/object_keys.py`.
    s3_key_template: KeyTemplate = Field(DEFAULT_TEMPLATE, validation_alias=plain_name("S3_KEY_TEMPLATE"))
    #: Where anybody finds its objects; empty means presigned links.
    s3_public_url: str = Field("", validation_alias=plain_name("S3_PUBLIC_URL"))
    #: Empty means by path where there is an endpoint, else virtual.
    s3_addressing: Literal["", "path", "virtual"] = Field("", validation_alias=plain_name("S3_ADDRESSING"))

    #: The template that the modifier `RawWorkflow` fills when a request brings no graph.
    comfy_model: str = Field("sd3", validation_alias=plain_name("COMFY_MODEL"))

    # --- the command line as a client: the official SDK's names -----------------------------------------------------
    comfy_base_url: str = Field("http://127.0.0.1:8000", validation_alias=plain_name("COMFY_BASE_URL"))
    comfy_api_key: SecretStr = Field(SecretStr(""), validation_alias=plain_name("COMFY_API_KEY"))

    #: Name of this machine in instance and queue names.
    host: str = Field(default_factory=socket.gethostname, min_length=1)

    @field_validator("lease_renew_s")
    @classmethod
    def _renewed_in_time(cls, value: float, info: ValidationInfo) -> float:
        lease_s = info.data.get("lease_s", value)
        if value > lease_s / 2:
            raise ValueError(f"must be at most half of COMFYLINE_LEASE_S ({lease_s:g}), or leases lapse in mid-job")
        return value

    @field_validator("output_retention_s")
    @classmethod
    def _files_go_with_their_job(cls, value: float | None, info: ValidationInfo) -> float | None:
        retention_s = info.data.get("retention_s")
        if value is not None and retention_s is not None and value > retention_s:
            raise ValueError(f"must be at most COMFYLINE_RETENTION_S ({retention_s:g}): files go with their job")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @property
    def tenant_limits(self) -> TenantLimits:
        """What each tenant may have for which nothing else is set."""
        return TenantLimits.of({name: getattr(self, f"tenant_{name}") for name in LIMITS})

    @property
    def scaling_rules(self) -> ScalingRules:
        """What is said of scaling."""
        pools = {pool: (least, most) for pool, least, most in self.autoscale_pools}
        return ScalingRules(target_wait_s=self.autoscale_target_wait_s, idle_s=self.autoscale_idle_s, pools=pools)

    @property
    def ledger_url(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.database_url or f"sqlite:///{self.data_dir / 'ledger.db'}"

    @property
    def has_embedded_broker(self) -> bool:
        """Whether `comfyline up` runs the broker itself."""
        return not self.broker_url

    @property
    def embedded_broker_socket(self) -> Path:
        """Unix socket of the embedded broker: in the data directory.

        Where that path is too long for the kernel, it is in a private directory that the broker makes when it starts;
        before that there is nothing to connect to.
        """
        path = self.data_dir / "broker.sock"
        if not self.has_long_data_dir:
            return path
        folder = socket_folder(self.data_dir)
        return path if folder is None else folder / path.name

    @property
    def has_long_data_dir(self) -> bool:
        """Whether the data directory's path is too long for a socket in it."""
        return len(str(self.data_dir / "broker.sock")) > LONGEST_SOCKET_PATH

    @property
    def transport_url(self) -> str:
        """kombu URL of the broker in use."""
        return self.broker_url or f"redis+socket://{quote(str(self.embedded_broker_socket))}"

    @property
    def outputs_dir(self) -> Path:
        """Storage of finished outputs."""
        return (self.storage_dir or self.data_dir) / "outputs"

    @property
    def inputs_dir(self) -> Path:
        """Storage of files that clients brought."""
        return (self.storage_dir or self.data_dir) / "inputs"

    @property
    def named_tokens(self) -> dict[str, str]:
        """The tokens for sources of model files, by the names that the manifest has for them."""
        return named_values(self.models_tokens.get_secret_value())

    def make_data_dir(self) -> None:
        """Create the data directory, for this user alone: prompts, pictures and keys lie in it."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def gpu_dir(self, name: str) -> Path:
        """Return the directory of one instance (`gpu0`): its outputs, inputs, logs."""
        return self.data_dir / "gpus" / name
