"""The condition that a row is a tenant's own: what a client causes to be looked up is looked up with it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, select, true

from core.ledger.database.tables import jobs
from core.records.access import ALL_TENANTS


def is_owned(column: Any, tenant: str) -> ColumnElement[bool]:
    """Return the condition that a column names this tenant; with `ALL_TENANTS` it holds for every row."""
    return true() if tenant == ALL_TENANTS else column == tenant


def is_of_owned_job(column: Any, tenant: str) -> ColumnElement[bool]:
    """Return the condition that a column has the id of a job of this tenant, or of any."""
    if tenant == ALL_TENANTS:
        return true()
    own: Select[Any] = select(jobs.c.id).where(jobs.c.tenant == tenant)
    found: ColumnElement[bool] = column.in_(own)
    return found
