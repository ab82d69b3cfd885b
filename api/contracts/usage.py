"""What tenants used, over HTTP: GPU time, jobs, bytes and money, by tenant, key, template, GPU and day."""

from __future__ import annotations

from flask import Blueprint, Response, request

from api.contracts.usage_views import KeptView, UsageReport, UsageView, csv_of, day_text
from api.http.caller import caller
from api.http.errors import BadParameter, json_response
from api.http.time_limits import bounded
from api.schema import fields
from api.schema.described import USAGE, Described, Parameter
from core.clock import DAY_MS, now_ms
from core.errors import LedgerUnavailable
from core.gpu_costs import PriceList
from core.ledger import Ledger
from core.records.access import ALL_TENANTS
from core.settings import Settings

#: What may be asked for, and what the ledger calls it.
DIMENSIONS = {"tenant": "tenant", "key": "key_id", "template": "template", "gpu": "gpu", "day": "day"}
#: Days of a report that names none, the last of which is today.
USUAL_DAYS = 30
#: Sums that one answer is made of, at most.
MAX_SUMS = 10_000
CSV = "text/csv"

_BY = Parameter(
    name="by",
    place="query",
    description="What to group by, one or several of tenant, key, template, gpu and day, separated by commas.",
    schema={"type": "string", "default": "tenant", "example": "tenant,day"},
)
_SINCE = Parameter(
    name="since",
    place="query",
    description="The first day, in UTC; by default the last 30 days.",
    schema={"type": "string", "format": "date"},
)
_UNTIL = Parameter(
    name="until",
    place="query",
    description="The last day, in UTC; by default today.",
    schema={"type": "string", "format": "date"},
)
_TENANT = Parameter(
    name="tenant", place="query", description="Only this one; for operators.", schema={"type": "string"}
)
_KEPT = Parameter(
    name="kept",
    place="query",
    description="Whether to say how many bytes are kept now: what max_kept_bytes is held against.",
    schema={"type": "boolean", "default": False},
)
_FORMAT = Parameter(
    name="format",
    place="query",
    description="Goes before the Accept header.",
    schema={"type": "string", "enum": ["json", "csv"]},
)


def usage_blueprint(settings: Settings, ledger: Ledger) -> Blueprint:
    """Return the route /api/v2/usage: an extension."""
    blueprint = Blueprint("usage", __name__, url_prefix="/api/v2")
    prices = PriceList(settings.gpu_prices)

    def kept(of: str) -> list[KeptView]:
        return [{"tenant": tenant, "bytes": size} for tenant, size in sorted(ledger.usage.kept(of=of).items())]

    @blueprint.get("/usage")
    @Described(
        summary="What was used: GPU time, jobs, bytes, money",
        tag=USAGE,
        scope="usage",
        answers={200: (UsageView, CSV)},
        errors=(LedgerUnavailable,),
        parameters=(_BY, _SINCE, _UNTIL, _TENANT, _KEPT, _FORMAT),
        text="Of the key's own tenant; operators see all. An attempt counts on the day on which it ended, exactly "
        "once, whatever crashed meanwhile, and goes on counting when its job is removed. With Accept: text/csv the "
        "rows are CSV.",
    )
    @bounded
    def usage() -> Response:
        by, (since, until), of = _by(), _days(), _whose()
        as_csv, with_kept = _wants_csv(), _wants_kept()
        sums = ledger.usage.sums(by, since=since, until=until, of=of, limit=MAX_SUMS + 1)
        if len(sums) > MAX_SUMS:
            raise BadParameter(f"That is more than {MAX_SUMS} sums: ask for fewer days, or group by less.")
        report = UsageReport(by, sums, prices)
        rows = report.rows(ledger.usage.key_names(report.key_ids))
        if as_csv:
            return Response(csv_of(rows, by), content_type=f"{CSV}; charset=utf-8")
        view: UsageView = {
            "since": day_text(since),
            "until": day_text(until),
            "by": [name for name, column in DIMENSIONS.items() if column in by],
            "currency": prices.currency,
            "rows": rows,
            "total": report.total(),
            "kept": kept(of) if with_kept else None,
            "unpriced_gpus": report.unpriced_gpus,
        }
        return json_response(view)

    return blueprint


def _by() -> list[str]:
    """Return what to group by, as the ledger calls it, in the order of `DIMENSIONS`."""
    asked = [name.strip() for name in request.args.get("by", "tenant").split(",")]
    for name in asked:
        if name not in DIMENSIONS:
            raise BadParameter(f"by: unknown word {name[:40]!a}; known are {', '.join(DIMENSIONS)}.")
    return [column for name, column in DIMENSIONS.items() if name in asked]


def _days() -> tuple[int, int]:
    """Return the first and the last day, counted from 1970."""
    until = fields.day("until", request.args.get("until"))
    last = now_ms() // DAY_MS if until is None else until
    since = fields.day("since", request.args.get("since"))
    first = last - USUAL_DAYS + 1 if since is None else since
    if first > last:
        raise BadParameter("since must not be after until.")
    return first, last


def _whose() -> str:
    """Return the tenant whose use is wanted, or `ALL_TENANTS`: what is not the caller's is nothing to it."""
    sees, tenant = caller().sees, request.args.get("tenant")
    if tenant is None:
        return sees
    if len(tenant) > fields.MAX_KEY_CHARS or "\0" in tenant or tenant == ALL_TENANTS:
        raise BadParameter("tenant must be the name of a tenant.")
    if sees not in (ALL_TENANTS, tenant):
        raise BadParameter("tenant: this key sees its own tenant alone; leave it out.")
    return tenant


def _wants_kept() -> bool:
    asked = request.args.get("kept", "false")
    if asked not in ("true", "false"):
        raise BadParameter("kept must be true or false.")
    return asked == "true"


def _wants_csv() -> bool:
    asked = request.args.get("format")
    if asked is None:
        return request.accept_mimetypes.best_match(["application/json", CSV]) == CSV
    if asked not in ("json", "csv"):
        raise BadParameter("format must be json or csv.")
    return asked == "csv"
