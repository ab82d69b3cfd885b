"""The client of the bucket that is the storage, one for each process, and its errors in words for an operator."""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
import threading
from collections.abc import Iterator
from typing import Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.session import Session
from s3transfer.exceptions import TransferNotDoneError

from core.buckets.dialect import dialect, without_expectations
from core.settings import Settings
from core.storage.folders import BucketFault
from core.storage.patience import limited

DEFAULT_REGION = "us-east-1"
CONNECT_TIMEOUT_S = 5.0
#: Silence of the server in the middle of an answer; three tries of it are the longest that one request takes.
READ_TIMEOUT_S = 20.0
TRIES = 3
#: Connections that one process keeps open at most.
POOL = 32
_REFUSED = frozenset(
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
)
_ELSEWHERE = frozenset(("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"))
_FULL = frozenset(
    (
        "XMinioStorageFull",
        "XMinioAdminBucketQuotaExceeded",
        "QuotaExceeded",
        "QuotaExceededException",
        "InsufficientCapacity",
        "ServiceQuotaExceededException",
    )
)
_SKEWED = frozenset(("RequestTimeTooSkewed", "RequestExpired"))
_ANOTHER_REGION = "the bucket is in another region: set COMFYLINE_STORAGE_REGION"
_REACH = "check COMFYLINE_STORAGE_ENDPOINT_URL, and that this machine reaches it"
_making_clients = threading.Lock()
_clients: dict[tuple[object, ...], Any] = {}


def storage_client(settings: Settings) -> Any:
    """Return this process's client of the storage's bucket. Raises BucketFault: the settings make none."""
    secret = settings.storage_secret_access_key.get_secret_value()
    key = (
        # A child that was forked shares no connections with its parent.
        os.getpid(),
        settings.storage_endpoint_url,
        settings.storage_region,
        settings.storage_addressing,
        settings.storage_access_key_id,
        secret,
    )
    with _making_clients:
        if key not in _clients:
            with translated(settings.storage_url):
                _clients[key] = _client(settings, secret)
        return _clients[key]


def place_of(settings: Settings) -> tuple[str, str]:
    """Return the storage's bucket, and what all its keys begin with: empty, or with a slash at its end."""
    bucket, _, prefix = settings.storage_url.removeprefix("s3://").partition("/")
    return bucket, f"{prefix}/" if prefix else ""


def _client(settings: Settings, secret: str) -> Any:
    session = Session()
    endpoint = settings.storage_endpoint_url or None
    config = Config(
        **dialect(addressing=settings.storage_addressing, endpoint_url=endpoint),
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=POOL,
        tcp_keepalive=True,
    )
    client: Any = session.create_client(
        "s3",
        region_name=settings.storage_region or session.get_config_variable("region") or DEFAULT_REGION,
        endpoint_url=endpoint,
        aws_access_key_id=settings.storage_access_key_id or None,
        aws_secret_access_key=secret or None,
        config=config,
    )
    return without_expectations(client)


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise what botocore raises as BucketFault, in words that say what to do, or FileNotFoundError.

    What is asked in the block takes no longer than this process waits for its bucket.

    Parameters:
      url: the storage, `s3://bucket/prefix`.
    """
    with limited(), in_words(url):
        yield


@contextlib.contextmanager
def in_words(url: str) -> Iterator[None]:
    """The same, however long it takes."""
    try:
        yield
    except ClientError as exc:
        raise _refusal(exc, url) from exc
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as exc:
        words = "there are no credentials for it: set COMFYLINE_STORAGE_ACCESS_KEY_ID and its secret, or AWS_PROFILE"
        raise BucketFault(errno.EACCES, f"{url}: {words}") from exc
    except (ConnectTimeoutError, ReadTimeoutError) as exc:
        raise BucketFault(errno.ETIMEDOUT, f"{url}: the S3 server does not answer in time: {_REACH}") from exc
    except SSLError as exc:
        words = f"the S3 server does not speak TLS with us: {_REACH}"
        if _is_of_certificate(exc):
            words = "the certificate of the S3 server is not trusted: AWS_CA_BUNDLE names a file of authorities"
        raise BucketFault(errno.ECONNREFUSED, f"{url}: {words}") from exc
    except (NoConnection, HTTPClientError) as exc:
        raise BucketFault(errno.ECONNREFUSED, f"{url}: no connection to the S3 server: {_REACH}") from exc
    except RecursionError as exc:
        # botocore asks a server that sends it elsewhere where that is, and is sent elsewhere again.
        raise BucketFault(errno.EINVAL, f"{url}: {_ANOTHER_REGION}") from exc
    except (BotoCoreError, TransferNotDoneError, ValueError) as exc:
        raise BucketFault(errno.EIO, f"{url}: the S3 server cannot be used ({type(exc).__name__})") from exc


def _is_of_certificate(exc: SSLError) -> bool:
    reasons = [exc, exc.kwargs.get("error"), *getattr(exc.kwargs.get("error"), "args", ())]
    return any(isinstance(reason, ssl.CertificateError) for reason in reasons)


def _refusal(exc: ClientError, url: str) -> OSError:
    said: Any = exc.response
    code = str(said.get("Error", {}).get("Code", ""))
    meta = said.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    answer = f"{exc.operation_name}: {status} {code}".rstrip()
    region = said.get("Error", {}).get("Region") or meta.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    if code == "NoSuchBucket":
        words = "there is no such bucket: make it, or correct COMFYLINE_STORAGE_URL and its endpoint"
        return BucketFault(errno.ENXIO, f"{url}: {words}")
    if code == "NoSuchKey" or (status == 404 and code in ("404", "NotFound")):
        return FileNotFoundError(errno.ENOENT, f"{url}: it has no such object")
    if code in _ELSEWHERE or (status == 301 and region):
        words = _ANOTHER_REGION.replace("region:", f"region ({region}):") if region else _ANOTHER_REGION
        return BucketFault(errno.EINVAL, f"{url}: {words}")
    if status in (301, 302, 307, 308):
        target = meta.get("HTTPHeaders", {}).get("location", "another address")
        return BucketFault(errno.EINVAL, f"{url}: the S3 server sends us to {target}: {_REACH}")
    if code in _SKEWED:
        words = "the clock of this machine is wrong: have it set by NTP (timedatectl set-ntp true)"
        return BucketFault(errno.EACCES, f"{url}: {words} ({answer})")
    if code in _REFUSED or status == 401:
        words = "the S3 server does not take the credentials: check COMFYLINE_STORAGE_ACCESS_KEY_ID and its secret"
        return BucketFault(errno.EACCES, f"{url}: {words} ({answer})")
    # Before what may not be done: Ceph says 403 of a quota.
    if code in _FULL or status == 507:
        return BucketFault(errno.ENOSPC, f"{url}: the bucket is full ({answer})")
    if code == "EntityTooLarge" or status == 413:
        return BucketFault(errno.EFBIG, f"{url}: the S3 server takes no object of this size ({answer})")
    if status == 403:
        return BucketFault(errno.EACCES, f"{url}: the credentials do not permit this ({answer})")
    return BucketFault(errno.EIO, f"{url}: the S3 server fails ({answer})")
