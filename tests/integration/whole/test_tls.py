"""TLS to the database and to each kind of broker, with certificates of an authority that only the settings name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import requests
from PIL import Image

from tests.fleet import Fleet, work
from tests.tls import Authority, TlsPostgres, TlsRabbit, TlsRedis
from tests.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has certified none of the servers."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def postgres(authority: Authority) -> Iterator[TlsPostgres]:
    server = TlsPostgres(authority)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module", params=[TlsRedis, TlsRabbit])
def broker(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsRedis | TlsRabbit]:
    server: TlsRedis | TlsRabbit = request.param(tmp_path_factory.mktemp("broker") / "server", authority)
    server.start()
    yield server
    server.stop()


def settings(postgres: TlsPostgres, broker: TlsRedis | TlsRabbit, authority: Authority) -> dict[str, str]:
    found = {"database_url": postgres.new_database(), "broker_url": broker.url, "broker_ca": str(authority.certificate)}
    return found | {"simulated_gpus": "1", "reconcile_s": "1", "host": "here"}


def test_a_job_takes_the_whole_road_over_tls(
    tmp_path: Path, postgres: TlsPostgres, broker: TlsRedis | TlsRabbit, authority: Authority
) -> None:
    with Fleet(tmp_path, **settings(postgres, broker, authority)) as fleet:
        fleet.start("api", "gpu0", "io", "beat").ready(gpus=1)
        # One that has to be converted ends at an io worker.
        job_id = fleet.submit(work(0.5), convert_output={"format": "jpeg", "quality": 80})
        assert fleet.wait(job_id, "succeeded")["attempt"] == 1
        picture = Image.open(io.BytesIO(fleet.picture(fleet.job(job_id))))
        assert picture.format == "JPEG"
        # Notices wake who waits for a job; remote control has queues of its own.
        body = {"input": {"workflow_json": work(0.1, seed=7)}}
        assert requests.post(f"{fleet.base_url}/generate/sync", json=body, timeout=30).status_code == 200
        assert fleet.command("drain", "gpu0").returncode == 0
        until(lambda: fleet.instances("drained"), what="the drain")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres.url.partition("?")[0] + "?sslmode=disable", connect_timeout=5)


@pytest.mark.parametrize("command", ["gpu", "io"])
def test_a_broker_of_another_authority_ends_the_start_with_one_line(
    tmp_path: Path,
    postgres: TlsPostgres,
    broker: TlsRedis | TlsRabbit,
    authority: Authority,
    stranger: Authority,
    command: str,
) -> None:
    fleet = Fleet(tmp_path, **settings(postgres, broker, authority) | {"broker_ca": str(stranger.certificate)})
    fleet.data_dir.mkdir(mode=0o700)

    ended = fleet.command(command)

    assert ended.returncode == 2, ended
    [line] = [line for line in ended.stderr.splitlines() if "certificate is not trusted" in line]
    assert f"COMFYLINE_BROKER_CA={stranger.certificate}" in line
    assert "COMFYLINE_BROKER_URL=" in line
    assert "guest:guest" not in line


def test_a_certificate_for_another_host_is_not_taken(
    tmp_path: Path, broker: TlsRedis | TlsRabbit, authority: Authority
) -> None:
    # An address of this machine that the certificate does not have.
    url = broker.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
    fleet = Fleet(tmp_path, broker_url=url, broker_ca=str(authority.certificate))
    fleet.data_dir.mkdir(mode=0o700)

    ended = fleet.command("beat")

    assert ended.returncode == 2, ended
    assert "certificate is not trusted (IP address mismatch" in ended.stderr


@pytest.mark.parametrize(
    ("of", "words"), [("another host", "does not match host name"), ("another authority", "certificate verify failed")]
)
def test_doctor_and_a_start_say_that_the_certificate_of_the_database_is_of(
    tmp_path: Path, postgres: TlsPostgres, authority: Authority, stranger: Authority, of: str, words: str
) -> None:
    url = postgres.new_database()
    if of == "another host":
        url = url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
    else:
        url = url.replace(str(authority.certificate), str(stranger.certificate))
    with Fleet(tmp_path, database_url=url) as fleet:
        fleet.data_dir.mkdir(mode=0o700)

        examined = fleet.command("doctor")

        [told] = [line for line in examined.stdout.splitlines() if "COMFYLINE_DATABASE_URL" in line]
        assert (examined.returncode, told[0]) == (1, "✗")
        assert words in told
        # A start waits: a database that is being set up is no reason to end.
        fleet.start("beat")
        until(lambda: "COMFYLINE_DATABASE_URL" in fleet.log("beat"), what="a word about it")
        [line] = [line for line in fleet.log("beat").splitlines() if "COMFYLINE_DATABASE_URL" in line]
        assert words in line
