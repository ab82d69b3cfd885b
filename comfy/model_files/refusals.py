"""Why a source did not give a file, by what it answered: what is wrong, and what to change."""

from __future__ import annotations

import re
from typing import Final, NoReturn

import requests
from urllib3.exceptions import HTTPError

from core.errors import ModelRefused, ModelUnavailable
from core.outbound.retry_after import parse_retry_after

#: Answers of the 4xx kind that may be others next time.
_PASSING_STATUSES = frozenset({408, 425, 429})
_PAGES = ("text/html", "application/xhtml+xml")
#: How much of an answer is read for what went wrong.
_READ_BYTES = 4096
_S3_CODE = re.compile(r"<Code>([A-Za-z][A-Za-z0-9]{0,63})</Code>")
_S3_REGION = re.compile(r"<Region>([a-z0-9-]{1,63})</Region>")
_REGION = re.compile(r"[a-z0-9-]{1,63}")

_OTHER_REGION: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_CREDENTIALS: Final = "the credentials that boto3 finds on this host (AWS_ACCESS_KEY_ID, AWS_PROFILE)"
#: By the code of an S3 server, see Amazon's "Error responses".
_OF_BUCKETS: Final = {
    "AccessDenied": f"there is no such object, or {_CREDENTIALS} may not read it",
    "ExpiredToken": f"{_CREDENTIALS} have ended",
    "InvalidAccessKeyId": f"{_CREDENTIALS} are not known there",
    "InvalidToken": f"{_CREDENTIALS} are not valid there",
    "NoSuchBucket": "there is no such bucket: see its name, and COMFYLINE_MODELS_S3_ENDPOINT_URL",
    "NoSuchKey": "there is no such object in the bucket",
    "RequestTimeTooSkewed": "the clock of this host is wrong",
    "SignatureDoesNotMatch": f"{_CREDENTIALS} are wrong",
}
#: By the header X-Error-Code of a hub, which huggingface_hub goes by as well.
_OF_HUBS: Final = {
    "EntryNotFound": "the repository has no such file at that revision",
    "GatedRepo": "the repository is gated: name the token of an account that has accepted its terms at the hub",
    "RepoNotFound": "there is no such repository, or the token may not see it",
    "RevisionNotFound": "the repository has no such revision",
}


def check_answer(answer: requests.Response, *, shown: str, allow_http: bool) -> None:
    """Refuse what is no file.

    Parameters:
      shown: the address, for people.
      allow_http: it may lead on without TLS.
    Raises:
      ModelUnavailable: trying again may help.
      ModelRefused: it hardly will.
    """
    status = answer.status_code
    hops = [each.url for each in (*answer.history[1:], answer)] if answer.history else []
    if not allow_http and any(url.startswith("http://") for url in hops):
        raise ModelRefused(f"{shown} leads on to an address without TLS, which COMFYLINE_MODELS_ALLOW_HTTP allows.")
    if status >= requests.codes.internal_server_error or status in _PASSING_STATUSES:
        asked_s = parse_retry_after(answer.headers.get("Retry-After"))
        raise ModelUnavailable(f"{shown} answered {status}.", asked_pause_s=asked_s)
    if status not in (requests.codes.ok, requests.codes.partial_content):
        _refuse(answer, f"{shown} answered {status}")
    if answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() in _PAGES:
        raise ModelRefused(f"{shown} answered with a web page, not with a file: is the address right?")


def _refuse(answer: requests.Response, what: str) -> NoReturn:
    """Raises ModelRefused."""
    status = answer.status_code
    said = answer.headers.get("X-Error-Code", "")
    if said in _OF_HUBS:
        raise ModelRefused(f"{what}: {_OF_HUBS[said]}.")
    text = _beginning(answer)
    found = _S3_CODE.search(text)
    if found is not None:
        code = found[1]
        region = _S3_REGION.search(text)
        named = region[1] if region is not None else _in_header(answer)
        if code in _OTHER_REGION or (named is not None and code != "AccessDenied"):
            where = "in another region" if named is None else f"in the region {named}"
            raise ModelRefused(f"{what} ({code}): the bucket is {where}; set AWS_DEFAULT_REGION of this host.")
        raise ModelRefused(f"{what} ({code})" + (f": {_OF_BUCKETS[code]}." if code in _OF_BUCKETS else "."))
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        raise ModelRefused(f"{what}: it asks for a token, or for another one.")
    if status in (requests.codes.not_found, requests.codes.gone):
        raise ModelRefused(f"{what}: there is no such file.")
    raise ModelRefused(f"{what}, and not with a file.")


def _in_header(answer: requests.Response) -> str | None:
    region = answer.headers.get("x-amz-bucket-region", "")
    return region if answer.is_redirect and _REGION.fullmatch(region) else None


def _beginning(answer: requests.Response) -> str:
    try:
        # It may be compressed although we ask for nothing that is; then it says nothing here.
        return bytes(answer.raw.read(_READ_BYTES)).decode("utf-8", "replace")
    except (HTTPError, OSError):
        return ""
