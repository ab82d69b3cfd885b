"""What instances offer, in the ledger: their `/object_info`, and the sizes of the model files that they found.

Equal instances share one row, by the digest of the former.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.fleet_tables import catalogues

#: How long a process goes by the sizes it has read, and of how many catalogues it keeps them.
KNOWN_S, KEPT = 600.0, 16

_SIZES = select(catalogues.c.model_sizes).where(catalogues.c.digest == bindparam("digest"))


class ModelSizes:
    """The sizes of model files, as one process knows them."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[dict[str, int], float]] = OrderedDict()

    def of(self, connection: Connection, digest: str | None) -> Mapping[str, int]:
        """Return `{name: bytes}` of the files of instances with this catalogue; `{}` where they do not tell."""
        if digest is None:
            return {}
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[1] < KNOWN_S:
            return known[0]
        packed = connection.execute(_SIZES, {"digest": digest}).scalar()
        sizes = {} if packed is None else dict(_unpacked(packed))
        self._known[digest] = (sizes, time.monotonic())
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return sizes


def keep_catalogue(database: Database, object_info: Mapping[str, Any], model_sizes: Mapping[str, int]) -> str:
    """Keep what an instance offers, and return its digest.

    Parameters:
      model_sizes: `{name: bytes}`; what is known is kept where there are none.
    """
    text = _text(object_info)
    digest = hashlib.sha256(text).hexdigest()
    sizes = _packed(model_sizes) if model_sizes else None
    try:
        with database.write() as transaction:
            known = transaction.connection.execute(
                select(catalogues.c.digest, catalogues.c.model_sizes).where(catalogues.c.digest == digest)
            ).one_or_none()
            if known is None:
                # As the instance has it: of a node's inputs the order means something, and is none of the digest.
                packed = zlib.compress(json.dumps(object_info, separators=(",", ":")).encode())
                values = {"digest": digest, "object_info": packed, "model_sizes": sizes}
                transaction.connection.execute(insert(catalogues).values(**values, created_at_ms=now_ms()))
            elif sizes is not None and sizes != known.model_sizes:
                transaction.connection.execute(
                    update(catalogues).where(catalogues.c.digest == digest).values(model_sizes=sizes)
                )
    except Conflict:
        # Another instance recorded the same catalogue at the same moment, which is as good.
        return digest
    return digest


def read_catalogue(connection: Connection, digest: str) -> dict[str, Any]:
    """Return a recorded `/object_info`; `{}` when it is gone."""
    packed = connection.execute(select(catalogues.c.object_info).where(catalogues.c.digest == digest)).scalar()
    return {} if packed is None else dict(_unpacked(packed))


def _text(value: Mapping[str, Any]) -> bytes:
    # Packs are loaded in any order; that of a class's inputs is the order of its widgets in the editor.
    return json.dumps(dict(sorted(value.items())), separators=(",", ":")).encode()


def _packed(value: Mapping[str, Any]) -> bytes:
    return zlib.compress(_text(value))


def _unpacked(packed: bytes) -> Any:
    return json.loads(zlib.decompress(packed))
