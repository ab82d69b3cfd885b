"""The schema of the ledger: brought to the newest version when a process starts, by exactly one of them."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from core.errors import ComfylineError, ConfigurationError, LedgerUnavailable
from core.ledger.database.connections import Database
from core.ledger.database.error_map import in_our_words
from core.ledger.database.fleet_tables import facts
from core.ledger.facts import write_fact
from core.settings import Settings

#: Any number, the same in every process: the name of PostgreSQL's advisory lock. Not that of earlier versions, which
#: wait for it in one long statement: an index that is built beside the work waits for such, and both would for ever.
ADVISORY_LOCK = 7_263_451_010
#: How often it is looked whether another process is done.
LOOK_S = 0.1
#: For a word of a server on whether it is up.
PING_S = 2

#: The fact that says the oldest version of the ledger whose code works with the tables as they are. Each migration
#: may say it (`works_with`); where it does not, that is the version before it.
OLDEST_CODE = "ledger.works_with"

_MIGRATIONS = Path(__file__).parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for this package's migrations."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a database is, and how its tables stand to this version."""

    #: For people: `PostgreSQL 15.14 on db.internal`, or the path of the file.
    server: str
    #: The last migration that its tables have seen; None: it has none of ours.
    revision: str | None
    #: The last one that there is.
    newest: str
    #: There are tables, or they can be made by us.
    may_create: bool = True
    #: They are of a later version, with which this one works.
    is_later: bool = False

    @property
    def is_current(self) -> bool:
        return self.revision == self.newest or self.is_later


def read_schema(settings: Settings) -> Schema:
    """Look at the database as `migrate` does, and change nothing; a file that is not there is not made.

    Raises: as `migrate`.
    """
    database = Database(settings.ledger_url)
    scripts = ScriptDirectory.from_config(alembic_config())
    newest = str(scripts.get_current_head())
    try:
        if database.is_sqlite and not Path(database.url.database or "").exists():
            return Schema(server=str(database.url.database), revision=None, newest=newest)
        with _told(database), database.engine.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
            is_later = revision is not None and _is_later(connection, scripts, revision)
            may_create = revision is not None or _may_create(database, connection)
            server = _server(database, connection)
            return Schema(server=server, revision=revision, newest=newest, may_create=may_create, is_later=is_later)
    finally:
        database.dispose()


def migrate(settings: Settings) -> None:
    """Create the ledger's tables, or bring them to this version. Several processes may call it at once.

    Raises:
      LedgerUnavailable: the database does not answer.
      ConfigurationError: a newer version of Comfyline has changed the tables, and this one does not work with them.
    """
    database = Database(settings.ledger_url)
    settings.make_data_dir()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        with _told(database), _exclusive(database, settings.data_dir), database.engine.connect() as connection:
            scripts = ScriptDirectory.from_config(alembic_config())
            newest = scripts.get_current_head()
            revision = MigrationContext.configure(connection).get_current_revision()
            if revision == newest or (revision is not None and _is_later(connection, scripts, revision)):
                return
            if not database.is_sqlite:
                connection.execute(text("SET statement_timeout = 0"))
                # Alembic has transactions of its own: parts of a migration stand outside of them.
                connection.commit()
            command.upgrade(alembic_config(connection), "head")
            write_fact(connection, OLDEST_CODE, _works_with(scripts))
            connection.commit()
    finally:
        database.dispose()


def _works_with(scripts: ScriptDirectory) -> str:
    """Return the oldest version whose code works with the tables of this one."""
    head = scripts.get_revision("head")
    said = getattr(head.module, "works_with", head.down_revision)
    return str(said or head.revision)


def _is_later(connection: Connection, scripts: ScriptDirectory, revision: str) -> bool:
    """Return whether the tables are of a later version than this one, which works with them all the same: while hosts
    are renewed one after the other, those whose turn has not come may start again, too.

    Raises:
      CommandError: they are of a version that this one does not work with.
    """
    if any(each.revision == revision for each in scripts.walk_revisions()):
        return False
    oldest = connection.execute(select(facts.c.value).where(facts.c.name == OLDEST_CODE)).scalar()
    if oldest is None or oldest > str(scripts.get_current_head()):
        raise CommandError(f"its tables are of version {revision}")
    return True


@contextmanager
def _told(database: Database) -> Iterator[None]:
    """Raise what the database or Alembic raises in our words."""
    try:
        yield
    except SQLAlchemyError as exc:
        raise _in_our_words(database, exc) from exc
    except CommandError as exc:
        raise ConfigurationError(
            f"COMFYLINE_DATABASE_URL: the ledger was made by a newer version of Comfyline; run that one ({exc})."
        ) from exc


def _server(database: Database, connection: Connection) -> str:
    # Piece by piece: anywhere else in the URL there may be a password.
    if database.is_sqlite:
        return str(database.url.database)
    version = str(connection.execute(text("SHOW server_version")).scalar()).partition(" ")[0]
    return f"PostgreSQL {version} on {database.url.host or 'a host that libpq knows'}"


def _may_create(database: Database, connection: Connection) -> bool:
    if database.is_sqlite:
        return True
    return bool(connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar())


def _in_our_words(database: Database, exc: SQLAlchemyError) -> ComfylineError:
    """As elsewhere, with the setting and the words of the server: whoever starts a process may read both."""
    meant = in_our_words(exc)
    # One line: libpq has one for each address that it tried.
    cause = " ".join(str(getattr(exc, "orig", None) or exc).split())
    if isinstance(meant, LedgerUnavailable):
        if _is_up(database):
            return LedgerUnavailable(
                f"COMFYLINE_DATABASE_URL: the database does not let us in ({cause}). Check the user, the password, and "
                "the name of the database; and its max_connections, if it has too many clients."
            )
        return LedgerUnavailable(f"COMFYLINE_DATABASE_URL: the database does not answer ({cause}).")
    return type(meant)(f"COMFYLINE_DATABASE_URL: the tables cannot be made ({cause}).")


def _is_up(database: Database) -> bool:
    """Return whether a PostgreSQL answers there at all, which it tells anybody. Nothing else tells that it refuses us:
    libpq has no code for why a connection did not come about.
    """
    if database.is_sqlite:
        return False
    # Imported late: the driver decides at its import whether gevent has patched the standard library.
    from psycopg import conninfo, pq

    _, options = database.url.get_dialect()().create_connect_args(database.url)
    asked = conninfo.make_conninfo(**{**options, "connect_timeout": PING_S})
    return pq.PGconn.ping(asked.encode()) == pq.Ping.OK


@contextmanager
def _exclusive(database: Database, data_dir: Path) -> Iterator[None]:
    if database.is_sqlite:
        with _locked(data_dir):
            yield
        return
    # Without a transaction, which the server would end for standing still while the tables are changed.
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        name = {"name": ADVISORY_LOCK}
        while not connection.execute(text("SELECT pg_try_advisory_lock(:name)"), name).scalar():
            time.sleep(LOOK_S)
        yield
        connection.execute(text("SELECT pg_advisory_unlock(:name)"), name)


@contextmanager
def upgrade_lock(settings: Settings) -> Iterator[None]:
    """Hold the tables of a SQLite ledger: whoever starts meanwhile waits, and looks at them after that."""
    with _locked(settings.data_dir):
        yield


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    with (data_dir / "ledger.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
