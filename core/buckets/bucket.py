"""One bucket: files put into it, and links to them.

The address a client names may be slow, wrong or hostile. So nothing of this machine (its AWS profile, its environment,
its proxies) goes into a request, each connection passes the guard of `core.outbound`, and an exchange has a time limit
that no endpoint can stretch by sending a byte now and then.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConfigValueStore, ConstantProvider
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError
from botocore.session import Session
from s3transfer.manager import TransferConfig, TransferManager

from core.buckets.dialect import dialect, without_expectations
from core.errors import AddressRefused, UploadFailed, UploadRefused
from core.outbound import Policy
from core.outbound.deadline import Deadline
from core.outbound.s3 import guard_s3_client
from core.records.bucket_target import BucketTarget, Credentials

DEFAULT_REGION = "us-east-1"
READ_TIMEOUT_S = 60.0
#: An exchange may take this long, and longer by its size at the slowest speed that is worth waiting for.
ANSWER_TIMEOUT_S = 120.0
SLOWEST_BYTES_PER_S = 128 * 1024
PART_BYTES = 16 * 1024 * 1024
LINK_S = 7 * 24 * 3600
#: Answers of the 4xx kind that may be others next time.
_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_PASSING_CODES = frozenset({"NoSuchUpload", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"})
_TRANSFER = TransferConfig(
    multipart_threshold=PART_BYTES,
    multipart_chunksize=PART_BYTES,
    max_request_concurrency=4,
    max_submission_concurrency=1,
    max_io_queue_size=1,
)
_making_clients = threading.Lock()


class Bucket:
    """A bucket of a client, or of the operator, for one exchange; closed after use.

    Parameters:
      policy: which addresses may be connected to.
      limit_s: seconds from now after which the exchange is cut, wherever it is.
      first_answer_s: the same until there was an answer of any kind, and then for each, longer by the exchange's size;
        None: as long as the whole.
      on_answer: called at the first answer, where there is a limit to it.
    Raises:
      UploadRefused: botocore knows at once that this is no target.
    """

    def __init__(
        self,
        target: BucketTarget,
        credentials: Credentials,
        policy: Policy,
        *,
        limit_s: float,
        first_answer_s: float | None = None,
        on_answer: Callable[[], None] | None = None,
    ) -> None:
        self._name = target.bucket_name
        self._public_url = target.public_url
        self._has_answered = False
        #: What it said last, if it was that it cannot now.
        self._excuse: str | None = None
        self._may_hold_some = True
        with _translated():
            connect_timeout_s = min(target.connect_timeout_s, limit_s, first_answer_s or limit_s)
            self._client = _client(target, credentials, connect_timeout_s)
        self._ends_at_s = time.monotonic() + limit_s
        self._next_answer_s = limit_s - ANSWER_TIMEOUT_S + (first_answer_s or ANSWER_TIMEOUT_S)
        self._on_answer = on_answer
        self._deadline = Deadline(limit_s if first_answer_s is None else min(limit_s, first_answer_s))
        if first_answer_s is not None:
            self._client.meta.events.register("response-received.s3", self._note_answer)
        guard_s3_client(self._client, policy, self._deadline.watch)
        # Before each try: connections that are made too late are cut as soon as they are made.
        self._client.meta.events.register_first("request-created.s3", self._check_time)

    def __enter__(self) -> Bucket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._deadline.close()
        self._client.close()

    def upload(self, key: str, path: Path, *, content_type: str, digest: str) -> None:
        """Put a file in, streamed; what an earlier exchange has put there is not sent again.

        Parameters:
          digest: `blake3:<64 hex digits>` of the file, kept with the object.
        Raises:
          UploadFailed: trying again may help.
          UploadRefused, AddressRefused: it hardly will.
          OSError: the file cannot be read.
        """
        size_bytes = path.stat().st_size
        extra = {"ContentType": content_type, "Metadata": {"blake3": _hex(digest)}}
        with _translated():
            if self._may_hold_some and self._holds(key, size_bytes, digest):
                return
            if size_bytes >= PART_BYTES:
                self._abort_parts(key)
            with TransferManager(self._client, _TRANSFER) as manager:
                manager.upload(str(path), self._name, key, extra_args=extra).result()
            self._check_time()

    def clean(self, key: str) -> None:
        """Remove the parts of an upload that did not end, as far as the server lets us."""
        with contextlib.suppress(UploadFailed, UploadRefused, AddressRefused), _translated():
            self._abort_parts(key)

    def link(self, key: str, *, expires_s: int = LINK_S) -> str:
        """Make a URL at which anybody may fetch the object: for some time, or below the bucket's public address."""
        if self._public_url is not None:
            return f"{self._public_url}/{quote(key)}"
        parameters = {"Bucket": self._name, "Key": key}
        with _translated():
            return str(self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=expires_s))

    def _holds(self, key: str, size: int, digest: str) -> bool:
        try:
            answer = self._client.head_object(Bucket=self._name, Key=key)
        except ClientError as exc:
            if _is_passing(exc):
                raise
            # Not there; or not to be known, for some credentials may only write. An earlier turn went through the
            # files in the same order: those that follow are not there either, or it does no harm to send them again.
            self._may_hold_some = False
            return False
        # An answer that was cut looks like a short one.
        self._check_time()
        if "ETag" not in answer:
            raise UploadRefused("what answers there is no S3 server")
        return bool(answer.get("ContentLength") == size and answer.get("Metadata", {}).get("blake3") == _hex(digest))

    def _abort_parts(self, key: str) -> None:
        # Those of an upload whose process was killed: the key is this job's alone. Some credentials may only write.
        with contextlib.suppress(ClientError):
            listed = self._client.list_multipart_uploads(Bucket=self._name, Prefix=key)
            for begun in listed.get("Uploads", ()):
                if begun["Key"] == key:
                    self._client.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=begun["UploadId"])

    def _note_answer(self, response_dict: dict[str, Any] | None = None, **_event: object) -> None:
        # One that is over is not begun anew.
        if response_dict is None or self._deadline.is_over:
            return
        status = int(response_dict["status_code"])
        self._excuse = f"answered {status}" if status >= 500 else None
        self._deadline.begin(min(self._next_answer_s, self._ends_at_s - time.monotonic()))
        if self._has_answered:
            return
        self._has_answered = True
        if self._on_answer is not None:
            self._on_answer()

    def _check_time(self, **_event: object) -> None:
        if self._deadline.is_over:
            # Pauses before further tries may have used the time up.
            raise UploadFailed(f"the S3 server {self._excuse or 'is too slow'}")


def limit_s(size_bytes: int) -> float:
    """Return how long an exchange may take that sends so much."""
    return ANSWER_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S


@lru_cache(maxsize=1)
def _session() -> Session:
    """A session that knows nothing of this machine; one, because it reads megabytes of descriptions."""
    session = Session()
    values = {name: default for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    values |= {"config_file": os.devnull, "credentials_file": os.devnull, "ignore_configured_endpoint_urls": True}
    store = ConfigValueStore({name: ConstantProvider(value) for name, value in values.items()})
    session.register_component("config_store", store)
    # Nobody reads the times in answers, and those that do not exist would end the exchange: they stay text.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return session


def _client(target: BucketTarget, credentials: Credentials, connect_timeout_s: float) -> Any:
    config = Config(
        **dialect(addressing=target.addressing, endpoint_url=target.endpoint_url),
        connect_timeout=connect_timeout_s,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": target.connect_attempts},
        proxies={},
    )
    # Sessions may not be used by several threads at once.
    with _making_clients:
        client: Any = _session().create_client(
            "s3",
            region_name=target.region or DEFAULT_REGION,
            endpoint_url=target.endpoint_url,
            aws_access_key_id=credentials.access_key_id,
            aws_secret_access_key=credentials.secret_access_key,
            aws_session_token=credentials.session_token,
            config=config,
        )
    return without_expectations(client)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Nothing of botocore's gets out, and no message of a foreign server's."""
    try:
        yield
    except ClientError as exc:
        kind = UploadFailed if _is_passing(exc) else UploadRefused
        raise kind(f"the S3 server answered {_answer(exc)}") from exc
    except (NoConnection, HTTPClientError) as exc:
        raise UploadFailed(f"the S3 server does not answer as it should ({type(exc).__name__})") from exc
    except (ResponseParserError, IncompleteReadError, KeyError) as exc:
        # A field that every answer of S3 has: what answers is something else.
        raise UploadFailed("the S3 server's answer is not S3") from exc
    except (BotoCoreError, ValueError) as exc:
        raise UploadRefused(f"the S3 target cannot be used ({type(exc).__name__})") from exc


def _is_passing(exc: ClientError) -> bool:
    status, code = _status(exc), exc.response.get("Error", {}).get("Code")
    return status >= 500 or status in _PASSING_STATUSES or code in _PASSING_CODES


def _answer(exc: ClientError) -> str:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    words = [str(_status(exc) or ""), code if re.fullmatch("[A-Za-z][A-Za-z0-9.]{0,63}", code) else ""]
    return " ".join(word for word in words if word) or "with an error"


def _status(exc: ClientError) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _hex(digest: str) -> str:
    return digest.partition(":")[2]
