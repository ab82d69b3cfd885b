"""The ledger's schema: the migrations make what the code expects, and many processes may start at once."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.database import connections
from core.ledger.database.connections import Database
from core.ledger.database.tables import metadata
from core.ledger.upgrade import alembic_config, migrate, read_schema
from core.settings import Settings, process_environment
from tests.ledger_moves import submit
from tests.paths import ROOT
from tests.services import make_settings
from tests.waiting import until

#: Imports everything, says so, waits for the word, and migrates.
MIGRATE = """
from core.ledger.upgrade import migrate
from core.settings import load_settings
settings = load_settings()
print("ready", flush=True)
input()
migrate(settings)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def empty_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A database without tables."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return make_settings(tmp_path, database_url=url)


def test_the_migrations_make_the_tables_of_the_code(empty_settings: Settings) -> None:
    migrate(empty_settings)

    database = Database(empty_settings.ledger_url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.dispose()


def test_migrating_again_changes_nothing(empty_settings: Settings) -> None:
    migrate(empty_settings)
    ledger = Ledger(empty_settings)
    job = submit(ledger)

    migrate(empty_settings)

    assert ledger.jobs.get(job.id) == job
    ledger.close()


def test_the_way_back_leaves_no_table(empty_settings: Settings) -> None:
    migrate(empty_settings)

    database = Database(empty_settings.ledger_url)
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        connection.commit()
        assert inspect(connection).get_table_names() == ["alembic_version"]
    database.dispose()


def test_tables_that_take_long_to_change_are_changed_under_the_lock_all_the_time(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(tmp_path, database_url=postgres_url)
    # The server ends a transaction that stands still for so long, and with it what it holds.
    monkeypatch.setattr(connections, "FROZEN_S", 1)
    change = command.upgrade

    def change_slowly(*arguments: Any) -> None:
        time.sleep(2.5)
        change(*arguments)

    monkeypatch.setattr(command, "upgrade", change_slowly)

    migrate(settings)

    assert read_schema(settings).is_current


def test_claims_wait_for_no_index_that_is_built_for_many_jobs(postgres_url: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, database_url=postgres_url)
    migrate(settings)
    ledger = Ledger(settings)
    slow, other = submit(ledger).id, submit(ledger).id
    ledger.close()
    database = Database(settings.ledger_url)
    with database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0029")
        # What an upgrade leaves that was killed.
        connection.execute(text("CREATE INDEX jobs_by_status ON jobs (id)"))
        connection.commit()
    change = text("UPDATE jobs SET priority = priority WHERE id = :job")

    with database.engine.connect() as connection, ThreadPoolExecutor(1) as aside:
        connection.execute(change, {"job": slow})
        upgrade = aside.submit(migrate, settings)
        until(lambda: _waits_for_others(database), what="an upgrade that waits for a transaction")
        with database.write() as transaction:
            transaction.connection.execute(change, {"job": other})
        connection.commit()
        upgrade.result(30)

    assert read_schema(settings).is_current
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.dispose()


def _waits_for_others(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.read() as connection:
        return bool(connection.execute(text(query)).scalar())


@pytest.mark.slow
def test_five_processes_start_at_once(empty_settings: Settings) -> None:
    environment = {
        **process_environment(),
        "COMFYLINE_DATA_DIR": str(empty_settings.data_dir),
        "COMFYLINE_DATABASE_URL": empty_settings.database_url,
    }
    processes = [_start_migration(environment) for _ in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()

    complaints = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * 5, complaints
    ledger = Ledger(empty_settings)
    submit(ledger)
    ledger.close()


def test_a_ledger_of_a_newer_version_is_refused_in_words(empty_settings: Settings) -> None:
    migrate(empty_settings)
    database = Database(empty_settings.ledger_url)
    with database.write() as transaction:
        transaction.connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        # As its own migration would have left it.
        transaction.connection.execute(text("UPDATE facts SET value = '9998' WHERE name = 'ledger.works_with'"))

    with pytest.raises(ConfigurationError, match="newer"):
        migrate(empty_settings)

    database.dispose()


def _start_migration(environment: dict[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command_line = [sys.executable, "-c", MIGRATE]
    return subprocess.Popen(command_line, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
