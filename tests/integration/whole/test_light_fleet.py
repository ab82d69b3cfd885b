"""The bench of scale on a small fleet: light GPUs run their jobs by way of ledger and broker, and each costs little."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.scale.cost_drawing import picture
from bench.scale.fleet_costs import Work, costs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Of one job that runs for a second; it takes about 30 transactions, 16 messages and 16 kB.
MOST = {"transactions": 90, "messages in": 50, "broker bytes": 60_000}


def test_each_job_of_a_fleet_of_light_gpus_costs_little(tmp_path: Path) -> None:
    work = Work(gpus=6, broker="rabbitmq", idle_s=1, single=2, pause_s=0.5, jobs=30, run_s=1.0)

    costs = costs_of(work, tmp_path)

    assert costs.connections >= work.gpus
    assert costs.full["transactions"] > 5, "they take the road that jobs take"
    assert {name: amount for name, amount in costs.full.items() if amount > MOST.get(name, amount)} == {}
    assert "what a job costs" in picture([costs])
