"""What a worker reports of its load."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cli.vast.load import UNTOLD, Load, Taken, workload_of
from cli.vast.place import Place
from core.errors import ConfigurationError

VARIABLES = {
    "CONTAINER_ID": "17",
    "MASTER_TOKEN": "secret-token",
    "REPORT_ADDR": "https://one.example/, https://two.example",
    "PUBLIC_IPADDR": "203.0.113.7",
    "WORKER_PORT": "3000",
    "VAST_TCP_PORT_3000": "41234",
}
PLACE = Place.from_environment(VARIABLES)


def taken(number: int = 1, workload: float = 400.0) -> Taken:
    return Taken(request_idx=number, reqnum=number, workload=workload)


@pytest.mark.parametrize(
    ("payload", "units"),
    [
        ({}, 400.0),
        ({"expected_time": 23}, 200.0),
        *(({"expected_time": bad}, 400.0) for bad in (0, -1, "9", True, math.nan)),
    ],
)
def test_units_of_work(payload: dict[str, Any], units: float) -> None:
    assert workload_of(payload) == pytest.approx(units)


def test_the_place() -> None:
    assert PLACE.url == "http://203.0.113.7:41234"
    assert PLACE.report_addresses == ("https://one.example", "https://two.example")
    assert "secret-token" not in repr(PLACE)
    assert Place.from_environment({**VARIABLES, "USE_SSL": "true"}).url.startswith("https://")
    for name in ("CONTAINER_ID", "PUBLIC_IPADDR", "WORKER_PORT", "VAST_TCP_PORT_3000"):
        with pytest.raises(ConfigurationError, match=name):
            Place.from_environment({**VARIABLES, name: ""})
    with pytest.raises(ConfigurationError, match="WORKER_PORT"):
        Place.from_environment({**VARIABLES, "WORKER_PORT": "x"})


def test_a_report() -> None:
    load = Load()
    load.max_perf, load.load_time_s = 100.0, 12.0
    first, second, third = taken(1), taken(2), taken(3)
    for each in (first, second, third):
        load.begin(each)
    load.refuse(taken(4))
    load.end(first, is_well=True)
    load.end(second, is_well=False, was_left=True)

    status = load.status(PLACE, disk_gb=1.5)

    assert status == {
        "id": 17, "mtoken": "secret-token", "version": "0.3.0", "loadtime": 12.0, "new_load": 800.0,
        "cur_load": 400.0, "rej_load": 400.0, "max_perf": 100.0, "cur_perf": 400.0, "error_msg": "",
        "num_requests_working": 1, "num_requests_recieved": 4, "additional_disk_usage": 1.5,
        "working_request_idxs": [3], "cur_capacity": 0, "max_capacity": 0, "url": "http://203.0.113.7:41234",
    }  # fmt: skip
    assert load.wait_s == 4.0
    counted = load.begin_report()
    after = load.status(PLACE, disk_gb=0.0)
    assert (after["new_load"], after["rej_load"], after["cur_perf"], after["cur_load"]) == (0, 0, 0, 400.0)
    load.not_reported(counted)
    assert load.status(PLACE, disk_gb=0.0)["new_load"] == 800.0
    assert load.ended() == [(4, False), (1, True), (2, True)]
    load.told(2)
    assert load.ended() == [(2, True)]


def test_what_nobody_takes_has_a_bound() -> None:
    load = Load()
    for number in range(UNTOLD + 5):
        load.refuse(taken(number))
    assert len(load.ended()) == UNTOLD
    assert load.ended()[0] == (5, False)
