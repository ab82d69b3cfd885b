"""The only module that reads the environment: every setting, typed, read once at start, passed in from there.

A name that starts with `COMFYLINE_` and is not known, or a value that cannot be read, stops the start with that name.
Secrets may be given as `NAME_FILE=/path` instead, so that they need not stand in the environment.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from core.broker_kind import SCHEMES as BROKER_SCHEMES
from core.errors import ConfigurationError
from core.object_keys import DEFAULT_TEMPLATE, check_template
from core.settings.socket_folder import socket_folder
from core.webhooks.keys import hmac_key, seed, split_secrets

PREFIX = "COMFYLINE_"
#: Of releases before the project took its name.
FORMER_PREFIX = "FLEET_"
#: Names with our prefix that are not settings of the running system: the test suite finds its services by them.
FOREIGN_PREFIXES = ("COMFYLINE_TEST_",)
#: Settings that may stand in a file named by `NAME_FILE`: secrets, and URLs that hold one.
SECRET_FIELDS = (
    "api_keys",
    "flower_basic_auth",
    "secret_key",
    "webhook_signing_key",
    "database_url",
    "broker_url",
)
#: The kernel's limit for a unix socket path is 108 bytes with its closing zero.
LONGEST_SOCKET_PATH = 100

#: Words that stand for networks in COMFYLINE_ALLOW_NETWORKS.
NETWORK_WORDS = ("loopback", "private")

_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?")

CommaList = Annotated[tuple[str, ...], NoDecode]
Pauses = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], NoDecode]


class Settings(BaseSettings):
    """Everything an operator can set. Field `x_y` is the variable `COMFYLINE_X_Y` unless an alias says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    # --- where things are -------------------------------------------------------------------------------------------
    #: Everything a single machine keeps: ledger, broker files, outputs, logs.
    data_dir: Path = Path(".comfyline")
    #: Outputs and uploads, on a file system that every machine of the fleet sees; empty means the data directory.
    storage_dir: Path | None = None
    #: SQLAlchemy URL of the ledger; empty means SQLite in the data directory.
    database_url: str = Field("", repr=False)
    #: kombu URL of the broker (redis://, amqp://); empty means the embedded one in the data directory.
    broker_url: str = Field("", repr=False)
    #: Prefix of every key on a shared Redis, and of our exchanges. On a shared RabbitMQ use a virtual host of its own.
    broker_namespace: str = "comfyline"

    # --- HTTP -------------------------------------------------------------------------------------------------------
    api_host: str = "127.0.0.1"
    api_port: int = Field(8000, ge=1, le=65535)
    #: Requests that have a line in the log, by the importance of how they ended; `off`: none.
    request_log: Literal["debug", "info", "warning", "error", "off"] = "info"
    #: gunicorn worker processes of the API.
    api_processes: int = Field(1, ge=1, le=64)
    #: Keys a client must present as `Authorization: Bearer ...`; none leaves the API open.
    api_keys: CommaList = Field((), repr=False)
    #: Where clients reach the API when a proxy rewrites the Host header, for instance https://api.example.com.
    public_url: str = ""
    #: Further names in the Host header that an API without keys goes by; `*` for any.
    allowed_hosts: CommaList = ()
    max_body_bytes: int = Field(20 * 1024 * 1024, ge=1024)
    max_json_depth: int = Field(64, ge=8, le=500)
    #: Largest file that clients may upload, or have fetched.
    max_upload_bytes: int = Field(100 * 1024 * 1024, ge=1024)
    #: Largest picture among them, in bytes, and in pixels of one frame.
    max_image_bytes: int = Field(25 * 1024 * 1024, ge=1024)
    max_image_pixels: int = Field(64_000_000, ge=1)
    #: Networks beyond the public internet that URLs of clients may lead to: CIDRs, `loopback`, `private`.
    allow_networks: CommaList = ()
    #: A PEM file of authorities that HTTPS servers behind clients' URLs may also be certified by.
    ca_bundle: Path | None = None
    #: Seconds for which a link to a file needs no key; at most as long as the file is kept.
    link_s: float = Field(7 * 24 * 3600.0, ge=1, allow_inf_nan=False)
    #: A client that hangs up on /generate/sync, /generate/stream or /prompt cancels its job, unless others want it too.
    cancel_on_hangup: bool = True
    #: Jobs that may wait at once; one more is refused with `queue_full`.
    max_queued: int = Field(100_000, ge=1)

    # --- Flower -----------------------------------------------------------------------------------------------------
    flower_host: str = "127.0.0.1"
    flower_port: int = Field(5555, ge=1, le=65535)
    #: `user:password`; generated, kept in the data directory and printed when empty.
    flower_basic_auth: SecretStr = SecretStr("")

    # --- GPUs and ComfyUI -------------------------------------------------------------------------------------------
    #: CUDA indices or UUIDs; empty means every GPU that the driver lists.
    gpus: CommaList = ()
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
    comfyui_urls: CommaList = Field((), repr=False)
    #: Seconds an instance may take to start.
    comfyui_start_timeout_s: float = Field(180.0, gt=0, allow_inf_nan=False)
    #: A folder of models shared by all instances, beside those of the checkout.
    models_dir: Path | None = None
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

    # --- workflows --------------------------------------------------------------------------------------------------
    #: A directory of further workflow templates; one of the same name as a shipped one wins.
    workflows_dir: Path | None = None

    # --- secrets ----------------------------------------------------------------------------------------------------
    #: Base64 of 32 random bytes that seal secrets in the ledger; generated and kept in the data directory when empty.
    #: Several, separated by commas: the first seals, all of them open.
    secret_key: SecretStr = SecretStr("")
    #: Base64 of 32 random bytes, an ed25519 key that signs every webhook beside the secrets; empty: no such signature.
    webhook_signing_key: SecretStr = SecretStr("")

    # --- the names of the /generate contract ------------------------------------------------------------------------
    webhook_url: str = Field("", repr=False, validation_alias=AliasChoices("WEBHOOK_URL", "webhook_url"))
    webhook_timeout_s: float = Field(
        30.0, gt=0, le=300, validation_alias=AliasChoices("WEBHOOK_TIMEOUT", "webhook_timeout_s")
    )
    #: For signing the events that go to `WEBHOOK_URL`, and no others. Two, separated by a comma, while it is rotated.
    webhook_secret: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("WEBHOOK_SECRET", "webhook_secret"))

    #: The bucket of `/generate` requests that name none: all of the first three, or none of them.
    s3_access_key_id: str = Field("", repr=False, validation_alias=AliasChoices("S3_ACCESS_KEY_ID", "s3_access_key_id"))
    s3_secret_access_key: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("S3_SECRET_ACCESS_KEY", "s3_secret_access_key")
    )
    s3_bucket_name: str = Field("", validation_alias=AliasChoices("S3_BUCKET_NAME", "s3_bucket_name"))
    #: Empty means Amazon's own for the region.
    s3_endpoint_url: str = Field("", validation_alias=AliasChoices("S3_ENDPOINT_URL", "s3_endpoint_url"))
    #: Also the region of requests that bring a bucket and no region.
    s3_region: str = Field("", validation_alias=AliasChoices("S3_REGION", "s3_region"))
    s3_session_token: SecretStr = Field(
        SecretStr(""), validation_alias=AliasChoices("S3_SESSION_TOKEN", "s3_session_token")
    )
    #: A folder of the bucket that everything goes below.
    s3_prefix: str = Field("", validation_alias=AliasChoices("S3_PREFIX", "s3_prefix"))
    #: How its keys are made, see `core/object_keys.py`.
    s3_key_template: str = Field(DEFAULT_TEMPLATE, validation_alias=AliasChoices("S3_KEY_TEMPLATE", "s3_key_template"))
    #: Where anybody finds its objects; empty means presigned links.
    s3_public_url: str = Field("", validation_alias=AliasChoices("S3_PUBLIC_URL", "s3_public_url"))
    #: Empty means by path where there is an endpoint, else virtual.
    s3_addressing: Literal["", "path", "virtual"] = Field(
        "", validation_alias=AliasChoices("S3_ADDRESSING", "s3_addressing")
    )

    #: The template that the modifier `RawWorkflow` fills when a request brings no graph.
    comfy_model: str = Field("sd3", validation_alias=AliasChoices("COMFY_MODEL", "comfy_model"))

    # --- the command line as a client: the official SDK's names -----------------------------------------------------
    comfy_base_url: str = Field(
        "http://127.0.0.1:8000", validation_alias=AliasChoices("COMFY_BASE_URL", "comfy_base_url")
    )
    comfy_api_key: SecretStr = Field(SecretStr(""), validation_alias=AliasChoices("COMFY_API_KEY", "comfy_api_key"))

    #: Name of this machine in instance and queue names.
    host: str = Field(default_factory=socket.gethostname, min_length=1)

    @field_validator(
        "api_keys", "allowed_hosts", "allow_networks", "gpus", "comfyui_urls", "webhook_schedule_s", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        """In small letters. One that no Host header is compared with, such as a URL, would do nothing in silence."""
        names = tuple(value.lower() for value in values)
        for name in names:
            if name != "*" and not _HOST_NAME.fullmatch(name) and not _is_address(name):
                raise ValueError(
                    f"{name!r} is no host name and no address: leave out scheme, port, brackets and wildcards"
                )
        return names

    @field_validator("gpus", "comfyui_urls")
    @classmethod
    def _each_once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError("names something twice; two workers must not share one GPU or instance")
        return values

    @field_validator("comfyui_urls")
    @classmethod
    def _are_urls(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("each must be a URL such as http://127.0.0.1:8188")
        return values

    @field_validator("allow_networks")
    @classmethod
    def _are_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if value in NETWORK_WORDS:
                continue
            try:
                ip_network(value)
            except ValueError as exc:
                words = " nor ".join(NETWORK_WORDS)
                raise ValueError(f"{value!r} is no network such as 10.1.0.0/16, nor {words}") from exc
        return values

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if scheme == "sentinel":
            raise ValueError(
                "cannot be Redis Sentinel; name the Redis itself, or a proxy before it (redis://host:port/0)"
            )
        if value and scheme not in BROKER_SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in BROKER_SCHEMES)}")
        # Several are kombu's way to name a broker's stand-ins.
        for url in value.split(";"):
            # Raises ValueError: the port is no number, or an address in brackets is not closed.
            _ = urlsplit(url).port
        return value

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

    @field_validator("ca_bundle")
    @classmethod
    def _holds_certificates(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as exc:
                # What is no certificate is an SSLError, which is one of these.
                raise ValueError("is not a readable PEM file of certificates") from exc
        return value

    @field_validator("s3_key_template")
    @classmethod
    def _makes_keys(cls, value: str) -> str:
        check_template(value)
        return value

    @field_validator("data_dir", "storage_dir", "workflows_dir", "models_dir")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

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
        before that nobody can connect.
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

    def make_data_dir(self) -> None:
        """Create the data directory, for this user alone: prompts, pictures and keys lie in it."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def gpu_dir(self, name: str) -> Path:
        """The directory of one instance (`gpu0`): its outputs, inputs, logs."""
        return self.data_dir / "gpus" / name


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    Parameters:
      overrides: field values that win over the environment (command-line flags).
    Raises:
      ConfigurationError: names the variable that is unknown, missing or malformed.
    """
    _refuse_unknown_names()
    try:
        settings = Settings(**{**_read_secret_files(), **overrides})
    except ValidationError as exc:
        raise ConfigurationError(_explain(exc)) from exc
    _refuse_half_a_bucket(settings)
    _refuse_malformed_keys(settings)
    return settings


def process_environment() -> dict[str, str]:
    """A copy of this process's environment, for children that need all of it (our own processes, never ComfyUI)."""
    return dict(os.environ)


def _read_secret_files() -> dict[str, str]:
    # Handed over as values and not written back into the environment, where child processes would inherit them.
    found = {}
    for field in SECRET_FIELDS:
        name = f"{PREFIX}{field.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            continue
        try:
            found[field] = Path(path).read_text().strip()
        except OSError as exc:
            raise ConfigurationError(f"{name}={path} cannot be read: {exc.strerror}") from exc
    return found


def _refuse_unknown_names() -> None:
    known = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if field.validation_alias is None}
    known |= {f"{PREFIX}{field.upper()}_FILE" for field in SECRET_FIELDS}
    for name in os.environ:
        if name.startswith(FORMER_PREFIX):
            called = PREFIX + name.removeprefix(FORMER_PREFIX)
            raise ConfigurationError(f"{name} is now called {called}: the project has taken another name.")
        if name.startswith(PREFIX) and not name.startswith(FOREIGN_PREFIXES) and name not in known:
            raise ConfigurationError(f"{name} is not a setting of Comfyline; see docs/settings.md for the list.")


def _refuse_half_a_bucket(settings: Settings) -> None:
    # Not a validator: pydantic would put the secrets beside it into its message.
    needed = {
        "S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "S3_BUCKET_NAME": settings.s3_bucket_name,
    }
    others = (
        settings.s3_endpoint_url,
        settings.s3_session_token.get_secret_value(),
        settings.s3_prefix,
        settings.s3_key_template != DEFAULT_TEMPLATE,
        settings.s3_public_url,
        settings.s3_addressing,
    )
    absent = [name for name, value in needed.items() if not value]
    if absent and (len(absent) < len(needed) or any(others)):
        raise ConfigurationError(f"{', '.join(absent)} missing: set all of {', '.join(needed)}, or no S3_ variable.")


def _refuse_malformed_keys(settings: Settings) -> None:
    # Not validators, as above.
    try:
        name = "WEBHOOK_SECRET"
        for secret in split_secrets(settings.webhook_secret.get_secret_value()):
            hmac_key(secret)
        name = "COMFYLINE_WEBHOOK_SIGNING_KEY"
        if signing_key := settings.webhook_signing_key.get_secret_value():
            seed(signing_key)
    except ValueError as exc:
        raise ConfigurationError(f"{name} {exc}.") from exc


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        name = field if field.isupper() else PREFIX + field.upper()
        known = Settings.model_fields.get(field)
        # A URL that cannot be read may hold a password all the same.
        got = f" (got {problem.get('input')!r})" if known is None or known.repr else ""
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(lines)
