"""Keys in the ledger. Their secrets are told once, when they are made; what is kept is their hashes.

Each change of what opens the API, or of what tenants may have, gives the table another version in the same transaction,
so that a process that has read it need only look whether the version is the same.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, delete, exists, func, insert, or_, select, update

from core.clock import now_ms
from core.errors import InvalidRequest, NotFound
from core.ledger.access.tenants import VERSION, read_limits, tell_of_change
from core.ledger.audit import write_act
from core.ledger.database.access_tables import key_secrets, keys, tenants
from core.ledger.database.connections import Database
from core.ledger.database.fleet_tables import facts
from core.records.access import ANYTHING, Caller, Key, Limits
from core.records.act import Actor
from core.records.tenant_limits import TenantLimits

#: What secrets begin with, so that people and scanners of leaked secrets know them.
PREFIX: Final = "comfyline_"
#: Of a key's secret: 256 random bits.
_SECRET_BYTES = 32

_VERSION = select(facts.c.value).where(facts.c.name == VERSION)
_ANY_KEY = select(exists().where(keys.c.id.is_not(None)))


@dataclass(frozen=True, kw_only=True)
class LiveKeys:
    """What opens the API, as of one moment."""

    #: None: nobody has made a key yet.
    version: str | None = None
    #: By the digests of secrets, see `digest_of`.
    callers: Mapping[str, Caller]
    #: Whether there is, or was, any key.
    has_any: bool = False
    #: What tenants may have at most for which anything is set.
    limits: Mapping[str, TenantLimits] = field(default_factory=dict)


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret as it came in a header, in hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """What operators do to keys, and what the API knows of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        tenant: str,
        *,
        name: str,
        scopes: tuple[str, ...],
        limits: Limits = ANYTHING,
        ends_in_s: float | None = None,
        by: Actor | None = None,
    ) -> tuple[Key, str]:
        """Make a key; returns it with its secret, which nobody can have again.

        Parameters:
          ends_in_s: for how long it is good; None: until it is revoked.
          by: who makes it; None: the user of this process.
        Raises: NotFound - no such tenant.
        """
        now = now_ms()
        key = Key(
            id=str(uuid.uuid4()),
            tenant=tenant,
            name=name,
            scopes=tuple(sorted(set(scopes))),
            limits=limits,
            created_at_ms=now,
            ends_at_ms=None if ends_in_s is None else now + int(ends_in_s * 1000),
        )
        with self._database.write() as transaction:
            connection = transaction.connection
            if connection.execute(select(tenants.c.name).where(tenants.c.name == tenant)).scalar() is None:
                raise NotFound(f"There is no tenant {tenant}.")
            connection.execute(insert(keys).values(**_values(key)))
            secret = _add_secret(connection, key.id)
            tell_of_change(connection)
            write_act(connection, "key.create", key.id, by, name=name, tenant=tenant, scopes=list(key.scopes))
        return key, secret

    def all(self, *, tenant: str | None = None) -> list[Key]:
        """Return the keys of a tenant, or of all, the newest first; those that were revoked too."""
        query = _listed().order_by(keys.c.created_at_ms.desc(), keys.c.id)
        if tenant is not None:
            query = query.where(keys.c.tenant == tenant)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]

    def get(self, key_id: str) -> Key:
        """Return one key. Raises NotFound."""
        with self._database.read() as connection:
            return _found(connection, key_id)

    def rotate(self, key_id: str, *, keep_s: float, by: Actor | None = None) -> tuple[Key, str]:
        """Give a key another secret, beside which the one before goes on for a while; returns it with the new one.

        At most two open it at once: one that is older still ends now.

        Parameters:
          keep_s: for how long the one before is good; 0: no longer.
          by: as for `create`.
        Raises: NotFound, InvalidRequest - it was revoked, or has ended.
        """
        with self._database.write() as transaction:
            connection, now = transaction.connection, now_ms()
            # Locked first: of two who rotate at once the second sees the first one's secret.
            connection.execute(select(keys.c.id).where(keys.c.id == key_id).with_for_update())
            key = _found(connection, key_id)
            if key.revoked_at_ms is not None or (key.ends_at_ms is not None and key.ends_at_ms <= now):
                raise InvalidRequest(f"Key {key_id} is good for nothing any more: make a new one.")
            own = key_secrets.c.key_id == key_id
            newest = (
                select(key_secrets.c.digest)
                .where(own)
                .order_by(key_secrets.c.created_at_ms.desc(), key_secrets.c.digest)
            )
            last = connection.execute(newest.limit(1)).scalar()
            connection.execute(delete(key_secrets).where(own, key_secrets.c.digest != last))
            until_ms = now + int(keep_s * 1000)
            connection.execute(update(key_secrets).where(own).values(ends_at_ms=until_ms))
            secret = _add_secret(connection, key_id)
            tell_of_change(connection)
            write_act(connection, "key.rotate", key_id, by, name=key.name, tenant=key.tenant, keep_s=keep_s)
            return _found(connection, key_id), secret

    def revoke(self, key_id: str, *, by: Actor | None = None) -> Key:
        """Have a key open nothing any more; harmless when repeated. Raises NotFound.

        Parameters: by - as for `create`.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            connection.execute(
                update(keys).where(keys.c.id == key_id, keys.c.revoked_at_ms.is_(None)).values(revoked_at_ms=now_ms())
            )
            connection.execute(delete(key_secrets).where(key_secrets.c.key_id == key_id))
            tell_of_change(connection)
            key = _found(connection, key_id)
            write_act(connection, "key.revoke", key_id, by, name=key.name, tenant=key.tenant)
            return key

    def live(self, known: LiveKeys | None = None) -> LiveKeys:
        """Return what opens the API now; the very same as is `known` where nothing has changed since."""
        with self._database.read() as connection:
            # Before the keys: what changes in between is read, and read again the next time.
            version = connection.execute(_VERSION).scalar()
            if known is not None and known.version == version:
                return known
            has_any = bool(connection.execute(_ANY_KEY).scalar())
            rows = connection.execute(
                select(keys, key_secrets.c.digest, key_secrets.c.ends_at_ms.label("secret_ends_at_ms"))
                .join(key_secrets, key_secrets.c.key_id == keys.c.id)
                .where(keys.c.revoked_at_ms.is_(None))
            ).all()
            limits = read_limits(connection)
        callers = {row.digest: _caller(row) for row in rows}
        return LiveKeys(version=version, callers=callers, has_any=has_any, limits=limits)

    def used(self, uses: Mapping[str, tuple[int, str]]) -> None:
        """Note by whom keys were used last: `{key id: (milliseconds since 1970, address)}`."""
        with self._database.write() as transaction:
            for key_id, (at_ms, address) in sorted(uses.items()):
                # Another process may have seen a later use.
                is_newer = or_(keys.c.last_used_at_ms.is_(None), keys.c.last_used_at_ms < at_ms)
                transaction.connection.execute(
                    update(keys)
                    .where(keys.c.id == key_id, is_newer)
                    .values(last_used_at_ms=at_ms, last_used_by=address[:64])
                )


def _add_secret(connection: Connection, key_id: str) -> str:
    secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    connection.execute(insert(key_secrets).values(digest=digest_of(secret), key_id=key_id, created_at_ms=now_ms()))
    return secret


def _listed() -> Select[Any]:
    is_good = or_(key_secrets.c.ends_at_ms.is_(None), key_secrets.c.ends_at_ms > now_ms())
    count = select(func.count()).where(and_(key_secrets.c.key_id == keys.c.id, is_good)).scalar_subquery()
    return select(keys, count.label("secrets"))


def _found(connection: Connection, key_id: str) -> Key:
    row = connection.execute(_listed().where(keys.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    return _key(row)


def _limits(row: Row[Any]) -> Limits:
    return Limits(
        max_priority=row.max_priority,
        templates=None if row.templates is None else tuple(row.templates),
        pools=None if row.pools is None else tuple(row.pools),
    )


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=tuple(row.scopes),
        limits=_limits(row),
        created_at_ms=row.created_at_ms,
        ends_at_ms=row.ends_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        last_used_at_ms=row.last_used_at_ms,
        last_used_by=row.last_used_by,
        secrets=row.secrets,
    )


def _caller(row: Row[Any]) -> Caller:
    ends = [end for end in (row.ends_at_ms, row.secret_ends_at_ms) if end is not None]
    return Caller(
        tenant=row.tenant,
        scopes=frozenset(row.scopes),
        limits=_limits(row),
        key_id=row.id,
        ends_at_ms=min(ends, default=None),
    )


def _values(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": list(key.scopes),
        "max_priority": key.limits.max_priority,
        "templates": None if key.limits.templates is None else list(key.limits.templates),
        "pools": None if key.limits.pools is None else list(key.limits.pools),
        "created_at_ms": key.created_at_ms,
        "ends_at_ms": key.ends_at_ms,
    }
