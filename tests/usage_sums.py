"""Whether what is put down as used is what the jobs themselves say; of ledgers from which nothing was removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sqlalchemy import select

from core.clock import DAY_MS, now_ms
from core.ledger import Ledger
from core.ledger.database.tables import assets, jobs
from core.records.job import SUCCEEDED, TERMINAL

_TIMES = ("run_ms", "load_ms", "lost_ms")
_GROUP = ("tenant", "key_id", "template")


def wrong_sums(ledger: Ledger) -> Iterator[str]:
    """Yield each tenant, key and template whose sums are not those of its jobs."""
    jobs_own: dict[tuple[str, ...], Counter[str]] = {}
    with ledger.database.read() as connection:
        sizes: Counter[str] = Counter()
        for asset in connection.execute(select(assets).where(assets.c.storage_key.is_not(None))):
            sizes[asset.job_id] += asset.size_bytes
        for row in connection.execute(select(jobs)):
            own = jobs_own.setdefault((row.tenant, row.key_id or "", row.workflow or ""), Counter())
            own.update({name: getattr(row, name) for name in _TIMES})
            if row.status in TERMINAL:
                own[row.status] += 1
            if row.status == SUCCEEDED:
                own["bytes_out"] += sizes[row.id]
    books: dict[tuple[str, ...], Counter[str]] = {}
    today = now_ms() // DAY_MS
    for each in ledger.usage.sums(_GROUP, since=today - 1, until=today):
        books.setdefault(each.group, Counter()).update(each.amounts)
    for group in sorted({*jobs_own, *books}):
        told, own = books.get(group, Counter()), jobs_own.get(group, Counter())
        told.pop("bytes_in", None)
        if +told != +own:
            yield f"{group}: the books say {dict(+told)}, the jobs {dict(+own)}"
