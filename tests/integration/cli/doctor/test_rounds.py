"""Everything that is looked at, without a fleet: servers that are away, silent or not ours; a ledger in trouble."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import update

from cli.doctor.condition import condition_checks
from cli.doctor.findings import LIMIT_S, Finding, examine
from cli.doctor.own_settings import settings_checks
from cli.doctor.rounds import host_round, whole_round
from cli.doctor.servers import clock_finding, server_checks
from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.database.tables import deliveries, jobs
from core.ledger.facts import CLOCK, STORAGE
from core.ledger.sealing import KEY_FILE, make_key
from core.ledger.upgrade import migrate
from core.settings import Settings
from core.storage.marker import NAME, StorageMarker
from tasks.instance.plan import plan_instances
from tests.bucket_fleet import BUCKET, bucket_settings
from tests.ledger_moves import WEBHOOK, generated, submit, succeeded
from tests.makers import come_up
from tests.model_server import model_server
from tests.ports import free_port
from tests.s3_server import S3Server, fronted
from tests.services import Broker, PostgresServer, make_settings
from tests.simulator_process import simulator


def by_subject(found: list[Finding], subject: str) -> list[Finding]:
    return [each for each in found if each.subject == subject]


def wrong(found: list[Finding], subject: str) -> str:
    """The only thing that is wrong with it."""
    [text] = [each.text for each in by_subject(found, subject) if each.mark == "wrong"]
    return text


def servers(settings: Settings) -> list[Finding]:
    with contextlib.closing(Ledger(settings, pool_size=2)) as ledger:
        return examine(server_checks(settings, ledger))


def bucket_change(url: str) -> dict[str, Any]:
    """The settings of a bucket at an address."""
    found: dict[str, Any] = dict(bucket_settings(url))
    return found | {"storage_secret_access_key": SecretStr(found["storage_secret_access_key"])}


@pytest.fixture
def silent() -> Iterator[int]:
    """A port at which whoever connects is not answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_silent_servers_are_named_each_by_its_setting_and_cost_seconds_only(tmp_path: Path, silent: int) -> None:
    settings = make_settings(
        tmp_path,
        database_url=f"postgresql://fleet:db-passw0rd@127.0.0.1:{silent}/fleet",
        broker_url=f"redis://:broker-passw0rd@127.0.0.1:{silent}/0",
        comfyui_urls=(f"http://user:comfy-passw0rd@127.0.0.1:{silent}",),
        comfy_base_url=f"http://127.0.0.1:{silent}",
        flower_port=silent,
    )
    begun_s = time.monotonic()

    found = whole_round(settings)

    assert time.monotonic() - begun_s < 2 * LIMIT_S
    assert "COMFYLINE_DATABASE_URL" in wrong(found, "database")
    assert "COMFYLINE_BROKER_URL" in wrong(found, "broker")
    assert "COMFYLINE_COMFYUI_URLS" in wrong(found, "ComfyUI gpu0")
    assert by_subject(found, "fleet")[0].mark == "unknown"
    assert "passw0rd" not in "".join(each.text for each in found)


def test_servers_that_are_not_there_are_wrong_and_the_api_may_be_elsewhere(tmp_path: Path) -> None:
    away = free_port()
    settings = make_settings(
        tmp_path,
        database_url=f"postgresql://fleet:passw0rd@127.0.0.1:{away}/fleet",
        broker_url=f"amqp://guest:passw0rd@127.0.0.1:{away}//",
        comfy_base_url=f"http://127.0.0.1:{away}",
        flower_port=away,
        storage_dir=tmp_path / "mount",
    )

    found = whole_round(settings)

    assert "COMFYLINE_DATABASE_URL: the database does not answer" in wrong(found, "database")
    assert f"COMFYLINE_BROKER_URL=amqp://guest:**@127.0.0.1:{away}//" in wrong(found, "broker")
    assert [by_subject(found, each)[0].mark for each in ("storage", "API", "Flower")] == ["unknown"] * 3
    assert "passw0rd" not in "".join(each.text for each in found)
    assert not settings.data_dir.exists(), "it only looks"


def test_a_machine_among_others_is_told_what_all_of_them_need(tmp_path: Path) -> None:
    # An address of a network for documents.
    elsewhere = make_settings(tmp_path, database_url="postgresql://fleet@192.0.2.1/fleet")

    alone, among = (examine(settings_checks(each)) for each in (make_settings(tmp_path), elsewhere))

    assert [each.text for each in alone if each.mark == "advice"] == []
    told = [each.text.partition(" ")[0] for each in among if each.mark == "advice"]
    assert told == ["COMFYLINE_SECRET_KEY", "COMFYLINE_STORAGE_DIR"]


def test_a_broker_that_refuses_us_is_named_and_its_password_is_not(tmp_path: Path, shared_rabbitmq: Broker) -> None:
    settings = make_settings(tmp_path, broker_url=shared_rabbitmq.url.replace("guest:guest", "guest:wr0ngpassw0rd"))

    [finding] = by_subject(servers(settings), "broker")

    assert (finding.mark, finding.refuses) == ("wrong", True)
    assert "the broker refuses us" in finding.text
    assert "wr0ngpassw0rd" not in finding.text


@pytest.mark.parametrize("kind", ["shared_redis", "shared_rabbitmq"])
def test_a_sound_broker_takes_a_message(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    broker: Broker = request.getfixturevalue(kind)

    first = by_subject(servers(broker.settings(tmp_path)), "broker")[0]

    assert (first.mark, "takes messages" in first.text) == ("ok", True)


def test_a_database_is_told_by_what_is_to_be_done_with_it(ledger_settings: Settings) -> None:
    [current] = by_subject(servers(ledger_settings), "database")
    with contextlib.closing(Ledger(ledger_settings)) as ledger, ledger.database.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0016'")
    [older] = by_subject(servers(ledger_settings), "database")
    with contextlib.closing(Ledger(ledger_settings)) as ledger, ledger.database.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        transaction.connection.exec_driver_sql("UPDATE facts SET value = '9998' WHERE name = 'ledger.works_with'")
    [newer] = by_subject(servers(ledger_settings), "database")
    with pytest.raises(ConfigurationError) as refusal:
        migrate(ledger_settings)

    assert (current.mark, "takes writes" in current.text) == ("ok", True)
    assert (older.mark, "comfyline migrate" in older.text) == ("advice", True)
    assert (newer.mark, newer.refuses, newer.text) == ("wrong", True, refusal.value.message)


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="")
    settings.data_dir.mkdir()

    assert by_subject(whole_round(settings), "database")[0].mark == "unknown"
    assert list(settings.data_dir.iterdir()) == []


def test_a_database_that_runs_and_refuses_us_is_told_from_one_that_is_away(postgres_settings: Settings) -> None:
    url = urlsplit(postgres_settings.ledger_url)
    nowhere = postgres_settings.model_copy(update={"database_url": url._replace(path="/nowhere").geturl()})
    away = urlunsplit(url._replace(netloc=f"postgres@127.0.0.1:{free_port()}"))

    refused, silent = servers(nowhere), servers(postgres_settings.model_copy(update={"database_url": away}))

    assert "the database does not let us in" in wrong(refused, "database")
    assert 'database "nowhere" does not exist' in wrong(refused, "database")
    assert "Check the user, the password, and the name" in wrong(refused, "database")
    assert "the database does not answer" in wrong(silent, "database")
    # What hangs on it is told once.
    for found in (refused, silent):
        assert [each.subject for each in found if each.mark == "wrong"] == ["database", "broker"]


def test_a_user_that_may_make_no_tables_is_told(postgres: PostgresServer, tmp_path: Path) -> None:
    url, role = postgres.create(), f"fleet_test_{uuid.uuid4().hex[:12]}"
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        netloc = f"{role}@{urlsplit(url).netloc.rpartition('@')[2]}"
        settings = make_settings(tmp_path, database_url=urlunsplit(urlsplit(url)._replace(netloc=netloc)))

        text = wrong(servers(settings), "database")

        assert "has no tables, and the URL's user may make none" in text
    finally:
        postgres.drop(url)
        postgres.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_bucket_that_refuses_us_is_told_before_the_first_process(ledger_settings: Settings) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    head = f"HTTP/1.1 403 X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        s3 = S3Server()
        stack.callback(s3.stop)
        s3.empty(BUCKET)
        front = stack.enter_context(fronted(s3, [head + body] * 40))
        sound, denied, away = (
            ledger_settings.model_copy(update=bucket_change(url))
            for url in (s3.url, front.url, f"http://127.0.0.1:{free_port()}")
        )

        [told] = by_subject(servers(denied), "storage")

        assert (told.mark, told.refuses) == ("wrong", True)
        assert "the credentials do not permit this" in told.text
        [told] = by_subject(servers(away), "storage")
        assert (told.mark, told.refuses) == ("wrong", False)
        assert "check COMFYLINE_STORAGE_ENDPOINT_URL" in told.text
        assert [each.mark for each in by_subject(servers(sound), "storage")] == ["unknown"]
        with contextlib.closing(Ledger(sound)) as ledger:
            assert ledger.facts.get(STORAGE) is None, "it only looks"
        assert not any(each.mark == "advice" for each in examine(settings_checks(sound)) if "STORAGE_DIR" in each.text)


@pytest.mark.parametrize(
    ("ahead_s", "mark", "words"),
    [
        (0.2, "ok", "Within 0.2 s"),
        (-59.0, "ok", "Within 59.0 s"),
        (61.0, "wrong", "61 s ahead of the database's"),
        (-4000.0, "wrong", "4,000 s behind the database's"),
    ],
)
def test_how_far_a_clock_may_be_off(ahead_s: float, mark: str, words: str) -> None:
    found, text = clock_finding(ahead_s, "the database's")

    assert found == mark
    assert words in text


def test_this_machines_clock_is_held_beside_the_databases(
    postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.mark for each in by_subject(servers(postgres_settings), "clock")] == ["ok"]
    right = time.time
    monkeypatch.setattr("core.ledger.timekeeping.time.time", lambda: right() + 600)

    assert "600 s ahead" in wrong(servers(postgres_settings), "clock")


class TestSecretKey:
    def test_before_the_first_process_there_is_none(self, ledger_settings: Settings) -> None:
        assert by_subject(servers(ledger_settings), "secret key")[0].mark == "unknown"

    def test_another_than_the_fleets_is_wrong_in_the_words_of_the_start(self, ledger_settings: Settings) -> None:
        ours, other = (ledger_settings.model_copy(update={"secret_key": SecretStr(make_key())}) for _ in range(2))
        with contextlib.closing(Ledger(ours)) as ledger:
            ledger.fleet_key.settle()
        assert [each.mark for each in by_subject(servers(ours), "secret key")] == ["ok"]
        with contextlib.closing(Ledger(other)) as ledger, pytest.raises(ConfigurationError) as refusal:
            ledger.fleet_key.settle()

        [finding] = by_subject(servers(other), "secret key")

        assert (finding.mark, finding.refuses, finding.text) == ("wrong", True, refusal.value.message)

    def test_none_where_the_fleet_has_one_is_wrong_and_none_is_made(self, ledger_settings: Settings) -> None:
        ours = ledger_settings.model_copy(update={"secret_key": SecretStr(make_key())})
        with contextlib.closing(Ledger(ours)) as ledger:
            ledger.fleet_key.settle()

        found = whole_round(ledger_settings)

        assert wrong(found, "secret key").startswith("COMFYLINE_SECRET_KEY is not set, and the fleet has a key already")
        assert not (ledger_settings.data_dir / KEY_FILE).exists()


class TestStorage:
    @pytest.fixture
    def settings(self, ledger_settings: Settings, tmp_path: Path) -> Settings:
        """A fleet that has its storage."""
        (tmp_path / "shared").mkdir()
        settings = ledger_settings.model_copy(update={"storage_dir": tmp_path / "shared"})
        with contextlib.closing(Ledger(settings)) as ledger:
            StorageMarker(settings, ledger.storage_moves).settle()
        return settings

    def test_a_sound_one_is_tried_and_left_as_it_was(self, settings: Settings) -> None:
        [finding] = by_subject(servers(settings), "storage")

        assert finding.mark == "ok"
        assert "written, read and removed" in finding.text
        kept = [path for path in (settings.outputs_dir, settings.inputs_dir) for path in path.rglob("*")]
        assert [path.name for path in kept if path.is_file()] == [NAME]
        assert {path.name for path in kept if path.is_dir()} <= {".drafts"}

    def test_another_fleets_is_wrong_in_the_words_of_the_start(self, settings: Settings) -> None:
        (settings.outputs_dir / NAME).write_text("another")

        with contextlib.closing(Ledger(settings)) as ledger, pytest.raises(ConfigurationError) as refusal:
            StorageMarker(settings, ledger.storage_moves).settle()

        assert wrong(servers(settings), "storage") == refusal.value.message

    def test_one_that_keeps_no_input_is_wrong(self, settings: Settings) -> None:
        settings.inputs_dir.write_text("no folder")

        text = wrong(servers(settings), "storage")

        assert text.startswith(f"COMFYLINE_STORAGE_DIR: {settings.storage_dir}/inputs does not keep files: ")

    def test_a_full_one_is_wrong(self, settings: Settings) -> None:
        full = settings.model_copy(update={"max_upload_bytes": 2**60})

        assert "less than COMFYLINE_MAX_UPLOAD_BYTES" in wrong(servers(full), "storage")

    def test_before_the_first_process_a_missing_mount_is_wrong_and_nothing_is_chosen(
        self, ledger_settings: Settings, tmp_path: Path
    ) -> None:
        settings = ledger_settings.model_copy(update={"storage_dir": tmp_path / "mount"})

        assert f"COMFYLINE_STORAGE_DIR={tmp_path}/mount is not there" in wrong(servers(settings), "storage")
        (tmp_path / "mount").mkdir()
        full = settings.model_copy(update={"max_upload_bytes": 2**60})
        assert "less than COMFYLINE_MAX_UPLOAD_BYTES" in wrong(servers(full), "storage")
        assert by_subject(servers(settings), "storage")[0].mark == "unknown"
        with contextlib.closing(Ledger(settings)) as ledger:
            assert ledger.facts.get(STORAGE) is None


class TestFleet:
    @pytest.fixture
    def found(self, ledger: Ledger, ledger_settings: Settings, shared_redis: Broker) -> Any:
        """Looks at the fleet of a ledger."""
        with_broker = {"broker_url": shared_redis.url, "broker_namespace": shared_redis.namespace}
        settings = ledger_settings.model_copy(update=with_broker)
        return lambda: examine(condition_checks(settings, ledger))

    def test_a_fleet_without_anything(self, found: Any) -> None:
        told = {each.subject: each.mark for each in found()}

        assert told == {
            "keys": "ok",
            "fleet": "unknown",
            "jobs": "ok",
            "webhooks": "ok",
            "beat": "unknown",
            "io workers": "wrong",
        }

    @pytest.mark.parametrize("has_key", [False, True])
    def test_an_api_that_asks_nobody_for_a_key_is_told_of(
        self, ledger: Ledger, ledger_settings: Settings, has_key: bool
    ) -> None:
        if has_key:
            ledger.keys.create("default", name="x", scopes=("read",))
        settings = ledger_settings.model_copy(update={"api_host": "0.0.0.0"})
        [said] = examine(condition_checks(settings, ledger)[:1])
        assert (said.subject, said.mark) == ("keys", "ok" if has_key else "advice")
        assert ("OPEN to everybody" in said.text) != has_key

    def test_each_gpu_that_is_not_well_is_named(self, ledger: Ledger, found: Any) -> None:
        for name, state in (("gpu0@here", "healthy"), ("gpu1@here", "quarantined"), ("gpu2@here", "drained")):
            come_up(ledger, name, state=state, reason="why")

        told = by_subject(found(), "fleet")

        assert [(each.mark, each.text) for each in told] == [
            ("wrong", "gpu1@here is quarantined: why It rests; comfyline resume starts it now."),
            ("advice", "gpu2@here is drained and takes no jobs. why"),
            ("ok", "1 healthy, 1 quarantined, 1 drained."),
        ]

    def test_jobs_that_no_gpu_can_run_are_named_with_the_reason(self, ledger: Ledger, found: Any) -> None:
        job = submit(ledger)

        text = wrong(found(), "jobs")

        assert text.startswith(f"1 job, of which {job.id} is first, cannot run: No GPU of the fleet can run it now.")
        come_up(ledger, "gpu0@here")
        assert [each.mark for each in by_subject(found(), "jobs")] == ["ok"]

    def test_outputs_that_do_not_arrive_are_told(self, ledger: Ledger, found: Any) -> None:
        come_up(ledger, "gpu0@here")
        claim = generated(ledger)
        assert [each.mark for each in by_subject(found(), "jobs")] == ["ok"]
        with ledger.database.write() as transaction:
            earlier = update(jobs).values(generated_at_ms=jobs.c.generated_at_ms - 61_000)
            transaction.connection.execute(earlier)

        text = wrong(found(), "jobs")

        assert claim.job_id in text
        assert "COMFYLINE_UPLOAD_GIVE_UP_S" in text

    def test_webhooks_that_nobody_takes_are_counted(self, ledger: Ledger, found: Any) -> None:
        come_up(ledger, "gpu0@here")
        for _ in range(3):
            succeeded(ledger, webhook=WEBHOOK)
        with ledger.database.write() as transaction:
            ids = transaction.connection.exec_driver_sql("SELECT id FROM deliveries ORDER BY id").scalars().all()
            assert len(ids) >= 3
            one, other = (deliveries.c.id == each for each in ids[:2])
            transaction.connection.execute(update(deliveries).where(one).values(state="dead", next_try_at_ms=None))
            transaction.connection.execute(update(deliveries).where(other).values(error="503"))

        told = by_subject(found(), "webhooks")

        assert [each.mark for each in told] == ["advice", "advice"]
        assert told[0].text.startswith("1 deliveries were given up")
        assert told[1].text.startswith("1 deliveries failed and are tried again")

    def test_a_reconciler_that_rests_is_told(self, ledger: Ledger, found: Any) -> None:
        ledger.timekeeping.look()
        assert [each.mark for each in by_subject(found(), "beat")] == ["ok"]
        at = int((ledger.facts.get(CLOCK) or "").split()[0])
        ledger.facts.mark(CLOCK, f"{at - 600_000} 0")

        assert "Run one comfyline beat" in wrong(found(), "beat")

    def test_a_gpu_host_without_an_io_worker_is_named(self, ledger: Ledger, found: Any) -> None:
        come_up(ledger, "gpu0@here")

        assert "Run comfyline io" in wrong(found(), "io workers")


@pytest.mark.parametrize("said", ["{}", "[]", '{"system": null}', '{"system": {}}', "<html></html>", '{"system": []}'])
def test_what_is_attached_and_no_comfyui_is_told(sqlite_settings: Settings, said: str) -> None:
    with model_server() as web:
        web.serve("/system_stats", said.encode(), content_type="application/json")
        web.serve("/object_info", b"{}", content_type="application/json")
        settings = sqlite_settings.model_copy(update={"comfyui_urls": (web.url,), "broker_url": ""})

        text = wrong(host_round(settings, plan_instances(settings)), "ComfyUI gpu0")

    assert "COMFYLINE_COMFYUI_URLS" in text
    assert web.url in text
    assert "no ComfyUI" in text


def test_of_an_attached_comfyui_with_several_gpus_it_is_said_that_it_runs_one_job_at_a_time(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    with simulator(tmp_path, "--simulate-version", "newest", "--simulate-gpus", "2") as server:
        settings = sqlite_settings.model_copy(update={"comfyui_urls": (server.base_url,), "broker_url": ""})

        [said] = by_subject(host_round(settings, plan_instances(settings)), "ComfyUI gpu0")

    assert said.mark == "ok"
    assert "One process has 2 x SIMULATED GPU, and runs one job at a time" in said.text


def test_an_attached_comfyui_that_does_not_answer_keeps_no_host_from_its_start(sqlite_settings: Settings) -> None:
    address = f"127.0.0.1:{free_port()}"
    urls = (f"http://user:passw0rd@{address}",)
    settings = sqlite_settings.model_copy(update={"comfyui_urls": urls, "broker_url": ""})

    found = host_round(settings, plan_instances(settings))

    assert f"COMFYLINE_COMFYUI_URLS: no ComfyUI answers at http://{address}" in wrong(found, "ComfyUI gpu0")
    assert "passw0rd" not in "".join(each.text for each in found)
    assert not any(each.refuses for each in found)
