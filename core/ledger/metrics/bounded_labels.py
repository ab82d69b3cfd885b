"""Which tenants, templates and kinds of GPU have samples of their own: the largest, and all others are `other`.

Who has is decided when something is counted, and kept as a fact of the fleet. So no sum ever moves from one sample to
another, as it would where a scrape decided: a counter that falls looks to Prometheus as if it had begun anew, and all
that it still has as if it had just happened.

There is room for the first ones that come. Once there is none, it is looked now and then which were the largest of
late; what is no longer among them loses its samples, and begins at nothing should it come back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select

from core.clock import DAY_MS, now_ms
from core.ledger.database.fleet_tables import facts
from core.ledger.database.metric_tables import metric_sums
from core.ledger.database.usage_tables import usage_days
from core.ledger.facts import write_fact
from core.metrics.counted import COUNTED
from core.metrics.tally import MOST_CHARS, parts_of

#: So many values of each label have samples of their own.
LARGEST = 20
#: All others together; and where there is none, as of a job that was made from no template.
OTHER, NONE = "other", "none"
#: How often it is looked which are the largest, and over how many days.
LOOK_MS = 6 * 3600 * 1000
LATELY_DAYS = 7
#: The fact: {"looked_at_ms": ..., label: [value, ...]}.
FACT = "metric_labels"
#: By label, the column of the books that says how large a value is.
LABELS = {"tenant": usage_days.c.tenant, "template": usage_days.c.template, "gpu_kind": usage_days.c.gpu}

_KNOWN = select(facts.c.value).where(facts.c.name == FACT)


class BoundedLabels:
    """The values that have samples of their own, as one transaction goes by them."""

    def __init__(self, known: dict[str, Any]) -> None:
        self._values: dict[str, list[str]] = {label: list(known.get(label, ())) for label in LABELS}
        self._looked_at_ms = int(known.get("looked_at_ms", 0))
        self._has_grown = False

    @classmethod
    def read(cls, connection: Connection) -> BoundedLabels:
        """Return them as they are."""
        known = connection.execute(_KNOWN).scalar()
        return cls(json.loads(known) if known else {})

    def of(self, label: str, value: str) -> str:
        """Return what a value is called in a sample; takes it in while there is room."""
        if not value:
            return NONE
        values, value = self._values[label], value[:MOST_CHARS]
        if value in values:
            return value
        if len(values) >= LARGEST:
            return OTHER
        values.append(value)
        self._has_grown = True
        return value

    def values(self, label: str) -> Sequence[str]:
        """Return the values that have samples of their own."""
        return self._values[label]

    def keep(self, connection: Connection) -> None:
        """Write down what is new; and now and then, which are the largest."""
        is_due = now_ms() - self._looked_at_ms > LOOK_MS
        if is_due and self._looked_at_ms:
            for label in LABELS:
                if len(self._values[label]) >= LARGEST:
                    self._look(connection, label)
        if is_due or self._has_grown:
            self._looked_at_ms = now_ms() if is_due else self._looked_at_ms
            write_fact(connection, FACT, json.dumps({"looked_at_ms": self._looked_at_ms, **self._values}))

    def _look(self, connection: Connection, label: str) -> None:
        column = LABELS[label]
        ended = sum((usage_days.c[end] for end in ("failed", "canceled", "expired")), usage_days.c.succeeded)
        size = func.sum(ended if label != "gpu_kind" else usage_days.c.run_ms + usage_days.c.load_ms)
        since = now_ms() // DAY_MS - LATELY_DAYS
        query = select(column).where(usage_days.c.day >= since, column != "").group_by(column)
        largest = connection.execute(query.order_by(size.desc(), column).limit(LARGEST)).scalars().all()
        values = [value[:MOST_CHARS] for value in largest]
        if gone := set(self._values[label]) - set(values):
            _remove(connection, label, gone)
        self._values[label] = values


def _remove(connection: Connection, label: str, values: Collection[str]) -> None:
    """Remove the samples of values."""
    gone = []
    for sample in connection.execute(select(metric_sums.c.sample)).scalars():
        name, _, labels = parts_of(sample)
        family = COUNTED.get(name)
        if family is not None and label in family.labels and labels[family.labels.index(label)] in values:
            gone.append(sample)
    if gone:
        connection.execute(delete(metric_sums).where(metric_sums.c.sample.in_(gone)))
