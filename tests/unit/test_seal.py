"""Sealed secrets open with their key and for their job only; the key is made once and kept private."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.ledger.seal import KEY_BYTES, Sealer, load_key

KEY = bytes(range(KEY_BYTES))
VALUE = {"s3": {"secret": "hunter2"}, "text": "\u00e9\U0001f600"}


def test_what_was_sealed_opens() -> None:
    sealed = Sealer(KEY).seal(VALUE, bound_to="job")

    assert Sealer(KEY).open(sealed, bound_to="job") == VALUE


def test_nothing_of_the_value_shows() -> None:
    sealed = Sealer(KEY).seal(VALUE, bound_to="job")

    assert b"hunter2" not in sealed
    assert b"secret" not in sealed


def test_equal_values_do_not_look_equal() -> None:
    sealer = Sealer(KEY)

    assert sealer.seal(VALUE, bound_to="job") != sealer.seal(VALUE, bound_to="job")


@pytest.mark.parametrize(("key", "bound_to"), [(bytes(KEY_BYTES), "job"), (KEY, "another job")])
def test_another_key_or_another_job_does_not_open_it(key: bytes, bound_to: str) -> None:
    sealed = Sealer(KEY).seal(VALUE, bound_to="job")

    with pytest.raises(ConfigurationError, match="FLEET_SECRET_KEY"):
        Sealer(key).open(sealed, bound_to=bound_to)


def test_a_changed_byte_does_not_open() -> None:
    sealed = bytearray(Sealer(KEY).seal(VALUE, bound_to="job"))
    sealed[-1] ^= 1

    with pytest.raises(ConfigurationError):
        Sealer(KEY).open(bytes(sealed), bound_to="job")


def test_the_configured_key_is_used(tmp_path: Path) -> None:
    assert load_key(base64.b64encode(KEY).decode(), tmp_path) == KEY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(b"short").decode(), "\u00e9"])
def test_a_malformed_key_is_refused_with_the_name_of_its_setting(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FLEET_SECRET_KEY"):
        load_key(text, tmp_path)


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"

    key = load_key("", data_dir)

    assert len(key) == KEY_BYTES
    assert load_key("", data_dir) == key
    assert [path.name for path in data_dir.iterdir()] == ["secret.key"]
    assert (data_dir / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_text("oops")

    with pytest.raises(ConfigurationError, match=r"secret\.key"):
        load_key("", tmp_path)


def test_many_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    for round_number in range(20):
        data_dir = tmp_path / str(round_number)
        keys: list[bytes | ConfigurationError] = []
        start = threading.Barrier(8)
        threads = [threading.Thread(target=_first_use, args=(data_dir, start, keys)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert keys == [load_key("", data_dir)] * 8
        assert [path.name for path in data_dir.iterdir()] == ["secret.key"]


def _first_use(data_dir: Path, start: threading.Barrier, keys: list[bytes | ConfigurationError]) -> None:
    start.wait()
    try:
        keys.append(load_key("", data_dir))
    except ConfigurationError as exc:
        keys.append(exc)
