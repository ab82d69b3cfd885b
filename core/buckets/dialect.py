"""How S3 is spoken, so that servers which are not Amazon's understand it too."""

from __future__ import annotations

from typing import Any

from botocore.handlers import add_expect_header


def dialect(*, addressing: str | None, endpoint_url: str | None) -> dict[str, Any]:
    """Return options for botocore's `Config`.

    Parameters:
      addressing: `path` or `virtual`; nothing: by path where there is an endpoint of its own.
    """
    return {
        "signature_version": "s3v4",
        # Trailing checksums, sent by default, are refused by many servers that are not Amazon's.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": addressing or ("path" if endpoint_url else "virtual")},
    }


def without_expectations(client: Any) -> Any:
    """Return a client that sends no `Expect`: botocore reads for ever where a server says 100 then and hangs up."""
    client.meta.events.unregister("before-call.s3", add_expect_header)
    return client
