"""What a database and its driver raise, in our words: state of theirs, a value they cannot hold, or a fault of ours."""

from __future__ import annotations

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    InvalidRequestError,
    MultipleResultsFound,
    NoResultFound,
    NotSupportedError,
    ProgrammingError,
    ResourceClosedError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.errors import ComfylineError, LedgerFault, LedgerUnavailable, UnstorableValue

#: Classes of SQLSTATE that tell of the server or the connection, whatever class of error the driver makes of them: no
#: connection, invalid transaction state (read-only, above all), invalid authorization, no such database, rolled back
#: for others' sake, out of resources, in use, an operator's intervention, a system error, a wrong configuration, an
#: internal error.
STATES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX"})
#: An operator took a right away; a server between us and the database forgot a statement.
STATES_IN_FULL = frozenset({"42501", "26000"})
#: A value is too long, or otherwise beyond what the server takes.
LIMITS = frozenset({"22", "54"})
CONFLICTS = frozenset({"23"})


class Conflict(LedgerFault):
    """Another transaction wrote the same key first, or a row that is referred to is gone. For `core.ledger` itself."""


def in_our_words(exc: Exception) -> ComfylineError:
    """Return our error for one of SQLAlchemy, of a driver, or of the conversion of a value."""
    if isinstance(exc, PoolTimeout):
        return LedgerUnavailable("The ledger is busy: no free database connection.")
    if isinstance(exc, DBAPIError):
        return _of_driver(exc)
    if isinstance(exc, StatementError):
        # A value that could not be made one of the database.
        return in_our_words(exc.orig) if isinstance(exc.orig, ValueError) else _fault(exc)
    if isinstance(exc, (UnicodeError, OverflowError, ValueError)):
        return UnstorableValue("A text or a number cannot be stored: it holds what the database has no form for.")
    if isinstance(exc, (NoResultFound, MultipleResultsFound)):
        return _fault(exc)
    if isinstance(exc, (DisconnectionError, InvalidRequestError, ResourceClosedError)):
        # The pool's words for connections that broke one after the other.
        return LedgerUnavailable("The connection to the ledger was lost.")
    return _fault(exc) if isinstance(exc, SQLAlchemyError) else LedgerUnavailable(_away(exc))


def _of_driver(exc: DBAPIError) -> ComfylineError:
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    if state in STATES_IN_FULL or state[:2] in STATES:
        return LedgerUnavailable(_away(exc.orig))
    if exc.connection_invalidated:
        return LedgerUnavailable("The connection to the ledger was lost.")
    if isinstance(exc, IntegrityError) or state[:2] in CONFLICTS:
        return Conflict(f"The ledger refused to write the same twice ({type(exc.orig).__name__}).")
    if isinstance(exc, DataError) or state[:2] in LIMITS:
        return UnstorableValue("A text or a number cannot be stored: it is too long, or holds a character such as NUL.")
    if isinstance(exc, (ProgrammingError, NotSupportedError)):
        return _fault(exc.orig)
    # What is left is the server's or the file's: locked, read-only, full, damaged, or in words of the driver's own.
    return LedgerUnavailable(_away(exc.orig))


def _away(cause: BaseException | None) -> str:
    return f"The ledger does not answer ({type(cause).__name__})."


def _fault(cause: BaseException | None) -> LedgerFault:
    return LedgerFault(f"The ledger does not understand us ({type(cause).__name__}).")
