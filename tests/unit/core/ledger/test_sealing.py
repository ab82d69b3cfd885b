"""Sealed secrets open with a key of the ring and for their job only; a key is made once and kept private."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import ConfigurationError
from core.ledger.sealing import KEY_BYTES, NONCE_BYTES, Sealer, key_id, load_keys

KEY = bytes(range(KEY_BYTES))
NEW_KEY = bytes(reversed(KEY))
VALUE = {"s3": {"secret": "hunter2"}, "text": "\u00e9\U0001f600"}


def test_what_was_sealed_opens() -> None:
    sealed = Sealer([KEY]).seal(VALUE, bound_to="job")

    assert Sealer([KEY]).open(sealed, bound_to="job") == VALUE


def test_nothing_of_the_value_shows() -> None:
    sealed = Sealer([KEY]).seal(VALUE, bound_to="job")

    assert b"hunter2" not in sealed
    assert b"secret" not in sealed


def test_equal_values_do_not_look_equal() -> None:
    sealer = Sealer([KEY])

    assert sealer.seal(VALUE, bound_to="job") != sealer.seal(VALUE, bound_to="job")


@pytest.mark.parametrize(("key", "bound_to"), [(bytes(KEY_BYTES), "job"), (KEY, "another job")])
def test_another_key_or_another_job_does_not_open_it(key: bytes, bound_to: str) -> None:
    sealed = Sealer([KEY]).seal(VALUE, bound_to="job")

    with pytest.raises(ConfigurationError, match="COMFYLINE_SECRET_KEY"):
        Sealer([key]).open(sealed, bound_to=bound_to)


def test_a_changed_byte_does_not_open() -> None:
    sealed = bytearray(Sealer([KEY]).seal(VALUE, bound_to="job"))
    sealed[-1] ^= 1

    with pytest.raises(ConfigurationError):
        Sealer([KEY]).open(bytes(sealed), bound_to="job")


def test_the_first_key_seals_and_every_key_opens() -> None:
    before, after = Sealer([KEY]), Sealer([NEW_KEY, KEY])
    old, new = before.seal(VALUE, bound_to="job"), after.seal(VALUE, bound_to="job")

    assert (old[:4], new[:4]) == (key_id(KEY), key_id(NEW_KEY))
    assert after.open(old, bound_to="job") == after.open(new, bound_to="job") == VALUE
    assert Sealer([NEW_KEY]).open(new, bound_to="job") == VALUE
    with pytest.raises(
        ConfigurationError, match=f"COMFYLINE_SECRET_KEY .*{key_id(KEY).hex()}.*{key_id(NEW_KEY).hex()}"
    ):
        Sealer([NEW_KEY]).open(old, bound_to="job")


@pytest.mark.parametrize("beginning", [b"", key_id(KEY)])
def test_what_was_sealed_before_keys_had_names_still_opens(beginning: bytes) -> None:
    nonce = beginning + os.urandom(NONCE_BYTES - len(beginning))
    sealed = nonce + AESGCM(KEY).encrypt(nonce, json.dumps(VALUE).encode(), b"job")

    assert Sealer([NEW_KEY, KEY]).open(sealed, bound_to="job") == VALUE


@pytest.mark.parametrize("sealed", [b"", b"x" * 11, key_id(KEY) + b"x"])
def test_what_is_too_short_does_not_open(sealed: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Sealer([KEY]).open(sealed, bound_to="job")


def test_the_configured_key_is_used(tmp_path: Path) -> None:
    assert load_keys(base64.b64encode(KEY).decode(), tmp_path) == [KEY]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("between", [",", " , ", "\n"])
def test_several_keys_are_kept_in_their_order(between: str, tmp_path: Path) -> None:
    text = between.join(base64.b64encode(key).decode() for key in (NEW_KEY, KEY)) + "\n"
    (tmp_path / "secret.key").write_text(text)

    assert load_keys(text, tmp_path) == load_keys("", tmp_path) == [NEW_KEY, KEY]


@pytest.mark.parametrize(
    "text",
    ["not base64!", base64.b64encode(b"short").decode(), "\u00e9", ",", ",".join([base64.b64encode(KEY).decode()] * 2)],
)
def test_a_malformed_key_is_refused_with_the_name_of_its_setting(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_SECRET_KEY"):
        load_keys(text, tmp_path)


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "new"

    (key,) = load_keys("", data_dir)

    assert len(key) == KEY_BYTES
    assert load_keys("", data_dir) == [key]
    assert [path.name for path in data_dir.iterdir()] == ["secret.key"]
    assert (data_dir / "secret.key").stat().st_mode & 0o777 == 0o600


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_text("oops")

    with pytest.raises(ConfigurationError, match=r"secret\.key"):
        load_keys("", tmp_path)


def test_many_first_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    for round_number in range(20):
        data_dir = tmp_path / str(round_number)
        keys: list[list[bytes] | ConfigurationError] = []
        start = threading.Barrier(8)
        threads = [threading.Thread(target=_first_use, args=(data_dir, start, keys)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert keys == [load_keys("", data_dir)] * 8
        assert [path.name for path in data_dir.iterdir()] == ["secret.key"]


def _first_use(data_dir: Path, start: threading.Barrier, keys: list[list[bytes] | ConfigurationError]) -> None:
    start.wait()
    try:
        keys.append(load_keys("", data_dir))
    except ConfigurationError as exc:
        keys.append(exc)
