"""What `comfyline gpus` shows, how GPUs are named on the command line, and which of them are meant."""

from __future__ import annotations

import time
from typing import Any

import click
import pytest

from cli.commands.gpus import card, chosen, find, holdings, remark, uptime
from core.errors import InvalidRequest

FLEET: list[dict[str, Any]] = [{"name": name, "host": name[-1]} for name in ("gpu0@a", "gpu1@a", "gpu0@b")]


@pytest.mark.parametrize(("name", "found"), [("gpu0@b", "gpu0@b"), ("gpu1", "gpu1@a"), ("gpu1@a", "gpu1@a")])
def test_a_name_without_its_host_is_enough_where_it_is_clear(name: str, found: str) -> None:
    assert find(FLEET, name)["name"] == found


@pytest.mark.parametrize(
    ("name", "words"),
    [("gpu0", "several hosts; name one of gpu0@a, gpu0@b"), ("gpu7", "no gpu7 in this fleet. It has: gpu0@a, gpu1@a")],
)
def test_a_name_that_is_not_clear_is_refused_with_the_choice(name: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        find(FLEET, name)


@pytest.mark.parametrize(
    ("names", "host", "is_all", "meant"),
    [
        (["gpu1", "gpu0@b", "gpu1@a"], None, False, ["gpu1@a", "gpu0@b"]),
        ([], "a", False, ["gpu0@a", "gpu1@a"]),
        ([], None, True, ["gpu0@a", "gpu1@a", "gpu0@b"]),
    ],
)
def test_gpus_are_meant_by_name_by_host_or_all(
    names: list[str], host: str | None, is_all: bool, meant: list[str]
) -> None:
    assert [gpu["name"] for gpu in chosen(FLEET, names, host, is_all=is_all)] == meant


@pytest.mark.parametrize(("names", "host", "is_all"), [([], None, False), (["gpu1"], "a", False), ([], "a", True)])
def test_nobody_drains_a_fleet_by_saying_nothing_or_two_things(
    names: list[str], host: str | None, is_all: bool
) -> None:
    with pytest.raises(click.UsageError):
        chosen(FLEET, names, host, is_all=is_all)


def test_a_host_without_gpus_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"no GPU on c\. Hosts: a, b"):
        chosen(FLEET, [], "c", is_all=False)


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s"), (130, "2 min"), (7300, "2 h 1 min"), (3 * 86400 + 4 * 3600, "3 d 4 h")]
)
def test_uptime(seconds: int, words: str) -> None:
    assert uptime(time.time_ns() // 1_000_000 - seconds * 1000 - 500) == words


def test_a_gpu_that_does_not_answer_has_no_uptime() -> None:
    assert uptime(None) == "-"


@pytest.mark.parametrize(
    ("device", "shown"),
    [("cuda:0 NVIDIA L4 : cudaMallocAsync", "NVIDIA L4"), ("cpu", "cpu"), (None, "-")],
)
def test_the_card_in_the_name_of_a_device(device: str | None, shown: str) -> None:
    assert card(device) == shown


def test_a_card_has_its_memory() -> None:
    assert card("cuda:0 NVIDIA L4 : cudaMallocAsync", 23_500_000_000) == "NVIDIA L4 23.5 GB"


def test_what_a_gpu_holds() -> None:
    models: list[dict[str, Any]] = [
        {"name": "a.sft", "size_bytes": 6_900_000_000},
        {"name": "b.sft", "size_bytes": None},
    ]
    assert holdings(models) == "a.sft 6.9 GB, b.sft"
    assert holdings([]) == "-"


def gpu(reason: str | None = None, lines_count: int = 1, **coming: Any) -> dict[str, Any]:
    return {
        "reason": reason,
        "lines_count": lines_count,
        "next": {"job_id": None, "in_s": None, "reason": "Because.", **coming},
    }


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (gpu(job_id="j1", in_s=4.2), "Takes job j1 in about 4 s: Because."),
        (gpu(in_s=0.0), "Takes a job now: Because."),
        (gpu("Hot.", job_id="j1", in_s=70.0), "Hot. Takes job j1 in about 1 min: Because."),
        (gpu(), "Takes none of the jobs that wait: Because."),
        (gpu(lines_count=0), ""),
        (gpu("Drained.", lines_count=0), "Drained."),
    ],
)
def test_what_there_is_to_say_of_a_gpu(of: dict[str, Any], words: str) -> None:
    assert remark(of) == words
