"""What a database raises, in our words: away for now, a value it cannot hold, a conflict, or a fault of ours."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy.exc as raised

from core.errors import ComfylineError, LedgerFault, LedgerUnavailable, UnstorableValue
from core.ledger.database.error_map import Conflict, in_our_words

#: One of each class of states that may pass, and the two that do so by themselves.
PASSING = (
    *("08006", "25006", "28000", "3D000", "40001", "53100", "55P03", "57014", "58030", "F0001", "XX000"),
    *("42501", "26000"),
)


class DriverError(Exception):
    """A driver's, with the state that the server gave it."""

    def __init__(self, sqlstate: str | None = None) -> None:
        super().__init__("in the words of the server")
        self.sqlstate = sqlstate


def driver(kind: type[raised.DBAPIError], sqlstate: str | None = None, **fields: Any) -> raised.DBAPIError:
    """A driver's error as SQLAlchemy raises it."""
    return kind("SELECT 1", {}, DriverError(sqlstate), **fields)


def statement(cause: BaseException) -> raised.StatementError:
    return raised.StatementError("m", "SELECT 1", {}, cause)


class TestState:
    """An SQLSTATE decides, whatever class the driver makes of it."""

    @pytest.mark.parametrize("state", PASSING)
    @pytest.mark.parametrize("kind", [raised.ProgrammingError, raised.DataError, raised.IntegrityError])
    def test_of_the_server_may_pass(self, kind: type[raised.DBAPIError], state: str) -> None:
        found = in_our_words(driver(kind, state))
        assert type(found) is LedgerUnavailable
        assert str(found) == "The ledger does not answer (DriverError)."

    @pytest.mark.parametrize(
        ("state", "kind"),
        [("23505", Conflict), ("22001", UnstorableValue), ("54000", UnstorableValue), ("42601", LedgerUnavailable)],
    )
    def test_of_the_statement_is_what_it_says(self, state: str, kind: type[ComfylineError]) -> None:
        assert type(in_our_words(driver(raised.InternalError, state))) is kind

    @pytest.mark.parametrize("state", ["42502", "26001", "42P01"])
    def test_others_of_those_classes_are_our_fault(self, state: str) -> None:
        assert type(in_our_words(driver(raised.ProgrammingError, state))) is LedgerFault


class TestClass:
    @pytest.mark.parametrize(
        ("kind", "meant"),
        [
            (raised.IntegrityError, Conflict),
            (raised.DataError, UnstorableValue),
            (raised.ProgrammingError, LedgerFault),
            (raised.NotSupportedError, LedgerFault),
            (raised.OperationalError, LedgerUnavailable),
            (raised.InternalError, LedgerUnavailable),
            (raised.DatabaseError, LedgerUnavailable),
            (raised.DBAPIError, LedgerUnavailable),
        ],
    )
    def test_where_there_is_no_state(self, kind: type[raised.DBAPIError], meant: type[ComfylineError]) -> None:
        found = in_our_words(driver(kind))
        assert type(found) is meant
        assert "words of the server" not in str(found)

    def test_a_lost_connection_is_away_whatever_was_asked(self) -> None:
        lost = driver(raised.ProgrammingError, connection_invalidated=True)
        assert type(in_our_words(lost)) is LedgerUnavailable
        assert "was lost" in str(in_our_words(lost))

    def test_our_fault_names_the_class_alone(self) -> None:
        found = in_our_words(driver(raised.ProgrammingError))
        assert str(found) == "The ledger does not understand us (DriverError)."

    def test_a_conflict_names_the_class_alone(self) -> None:
        assert "(DriverError)" in str(in_our_words(driver(raised.IntegrityError)))


class TestOfSqlalchemy:
    def test_no_connection_is_free(self) -> None:
        found = in_our_words(raised.TimeoutError())
        assert type(found) is LedgerUnavailable
        assert "busy" in str(found)

    @pytest.mark.parametrize(
        "error", [raised.DisconnectionError(), raised.InvalidRequestError(), raised.ResourceClosedError()]
    )
    def test_the_pools_words_for_lost_connections(self, error: Exception) -> None:
        found = in_our_words(error)
        assert type(found) is LedgerUnavailable
        assert "was lost" in str(found)

    @pytest.mark.parametrize(
        "error", [raised.NoResultFound(), raised.MultipleResultsFound(), raised.CompileError(), raised.ArgumentError()]
    )
    def test_what_we_did_wrong(self, error: Exception) -> None:
        assert type(in_our_words(error)) is LedgerFault

    def test_a_value_that_could_not_be_made_one_of_the_database(self) -> None:
        assert type(in_our_words(statement(ValueError()))) is UnstorableValue
        assert type(in_our_words(statement(TypeError()))) is LedgerFault


@pytest.mark.parametrize("error", [UnicodeError(), OverflowError(), ValueError()])
def test_a_value_that_the_driver_cannot_convert(error: Exception) -> None:
    assert type(in_our_words(error)) is UnstorableValue


def test_a_driver_that_speaks_for_itself() -> None:
    found = in_our_words(DriverError())
    assert type(found) is LedgerUnavailable
    assert str(found) == "The ledger does not answer (DriverError)."
