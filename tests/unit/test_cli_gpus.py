"""What `fleet gpus` shows, and how a GPU is named on the command line."""

from __future__ import annotations

import dataclasses

import pytest

from cli.gpus import card, find, uptime
from core.errors import InvalidRequest
from core.ledger.database import now_ms
from core.ledger.instances import InstanceRecord

RECORD = InstanceRecord(
    name="gpu0@a",
    host="a",
    worker="gpu0.1@a",
    kind="comfyui",
    gpu="GPU-1",
    state="healthy",
    reason=None,
    url=None,
    output_dir=None,
    version=None,
    device=None,
    models=(),
    warmup_s=None,
    quarantined_until_ms=None,
    restarts=0,
    started_at_ms=0,
    up_since_ms=None,
    heartbeat_at_ms=0,
)
FLEET = [dataclasses.replace(RECORD, name=name) for name in ("gpu0@a", "gpu1@a", "gpu0@b")]


@pytest.mark.parametrize(("name", "found"), [("gpu0@b", "gpu0@b"), ("gpu1", "gpu1@a"), ("gpu1@a", "gpu1@a")])
def test_a_name_without_its_host_is_enough_where_it_is_clear(name: str, found: str) -> None:
    assert find(FLEET, name).name == found


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu0", "several hosts; name one of gpu0@a, gpu0@b"), ("gpu7", "no gpu7 in this fleet. It has: gpu0@a, gpu1@a")],
)
def test_a_name_that_is_not_clear_is_refused_with_the_choice(name: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        find(FLEET, name)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (130, "2 min"), (7300, "2 h 1 min"), (3 * 86400 + 4 * 3600, "3 d 4 h")]
)
def test_uptime(seconds: int, words: str) -> None:
    assert uptime(dataclasses.replace(RECORD, up_since_ms=now_ms() - seconds * 1000 - 500)) == words


def test_an_instance_that_does_not_answer_has_no_uptime() -> None:
    assert uptime(RECORD) == "-"


@pytest.mark.parametrize(
    ("device", "shown"),
    [("cuda:0 NVIDIA L4 : cudaMallocAsync", "NVIDIA L4"), ("cpu", "cpu"), (None, "-")],
)
def test_the_card_in_the_name_of_a_device(device: str | None, shown: str) -> None:
    assert card(device) == shown
