"""Headers of a request for a file that ask for a part of it, or only for what has changed, as routes describe them."""

from __future__ import annotations

from api.schema.described import Parameter

CONDITIONS = (
    Parameter(
        name="Range",
        place="header",
        description="One range: bytes=a-b, bytes=a- or bytes=-n.",
        schema={"type": "string", "pattern": "^bytes=[0-9]*-[0-9]*$"},
    ),
    Parameter(
        name="If-Range",
        place="header",
        description="The ETag of what was fetched so far: the range if it is still the same file, else all of it.",
        schema={"type": "string"},
    ),
    Parameter(
        name="If-None-Match",
        place="header",
        description="The ETag of what is here already; 304 if it is still the same file.",
        schema={"type": "string"},
    ),
    Parameter(
        name="If-Match",
        place="header",
        description="The ETag of the file that is wanted; 412 if it is another.",
        schema={"type": "string"},
    ),
)
