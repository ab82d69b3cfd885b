"""What is said of the servers that a fleet shares, where it takes a server of one's own to see it."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import psycopg

from cli.doctor.servers import look_only, server_checks
from core.ledger.upgrade import migrate
from tests.own_servers import OwnPostgres
from tests.services import make_settings


def test_a_database_that_has_few_connections_left_is_told(tmp_path: Path) -> None:
    postgres = OwnPostgres(max_connections="20")
    try:
        postgres.start()
        settings = make_settings(tmp_path, database_url=postgres.new_database())
        migrate(settings)
        with closing(look_only(settings)) as ledger, ExitStack() as others:
            database = next(check for check in server_checks(settings, ledger) if check.subject == "database")
            assert [mark for mark, *_ in database.look()] == ["ok"]
            for _ in range(12):
                others.enter_context(psycopg.connect(postgres.url))

            said = list(database.look())

        assert [mark for mark, *_ in said] == ["ok", "advice"]
        assert "of the 17 connections" in said[1][1]
        assert "max_connections" in said[1][1]
    finally:
        postgres.remove()
