"""The ledger's schema: the migrations make what the code expects, and many processes may start at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.database.connections import Database
from core.ledger.database.tables import metadata
from core.ledger.upgrade import alembic_config, migrate
from core.settings import Settings, process_environment
from tests.ledger_moves import submit
from tests.paths import ROOT
from tests.services import make_settings

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
        options = {"compare_type": True, "include_object": _is_comparable if database.is_sqlite else None}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        if database.is_sqlite:
            columns = connection.exec_driver_sql("PRAGMA index_xinfo(jobs_turn)").all()
            assert [(row.name, row.desc) for row in columns if row.key] == [
                ("status", 0),
                ("priority", 1),
                ("created_at_ms", 0),
                ("id", 0),
            ]
    database.dispose()


def _is_comparable(_object: object, name: str | None, *_rest: object) -> bool:
    """Alembic cannot compare an index with a descending column on SQLite; the test looks at it itself."""
    return name != "jobs_turn"


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

    with pytest.raises(ConfigurationError, match="newer"):
        migrate(empty_settings)

    database.dispose()


def _start_migration(environment: dict[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command_line = [sys.executable, "-c", MIGRATE]
    return subprocess.Popen(command_line, cwd=ROOT, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
