"""A real Prometheus scrapes a fleet at work: its format, the shipped rules, and every query of the board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.fleet import ALL, Fleet, sampled, work
from tests.paths import ROOT
from tests.ports import free_port
from tests.prometheus_server import RULES, RULES_DIR, OwnPrometheus, program, promtool
from tests.receivers import receiving
from tests.waiting import until

pytestmark = pytest.mark.slow

BOARD = json.loads((ROOT / "deploy" / "grafana" / "comfyline.json").read_text(encoding="utf-8"))
QUERIES = sorted({target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())})
RECORDED = [
    rule["record"]
    for group in yaml.safe_load((RULES_DIR / RULES[0]).read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]


def test_the_rules_are_rules_and_their_tests_pass() -> None:
    checked = promtool("check", "rules", *RULES)
    assert checked.returncode == 0, checked.stderr
    tested = promtool("test", "rules", "comfyline.tests.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    config = promtool("check", "config", "prometheus.yaml")
    assert config.returncode == 0, config.stderr


def test_the_tests_of_the_rules_notice_a_rule_that_is_wrong(tmp_path: Path) -> None:
    for name in (*RULES, "comfyline.tests.yaml"):
        (tmp_path / name).write_text((RULES_DIR / name).read_text(encoding="utf-8").replace("> 1800", "> 180000"))

    assert promtool("test", "rules", "comfyline.tests.yaml", folder=tmp_path).returncode != 0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    program("prometheus")
    settings = {"reconcile_s": "0.5", "metrics_report_s": "0.5", "metrics_port": str(free_port())}
    settings |= {"allow_networks": "loopback", "simulator_args": "--simulate-speed 20"}
    with Fleet(tmp_path_factory.mktemp("fleet"), **settings) as running:
        yield running.start(*ALL).ready(gpus=2, timeout_s=90)


@pytest.fixture(scope="module")
def prometheus(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPrometheus]:
    target = f"127.0.0.1:{fleet.environment()['COMFYLINE_METRICS_PORT']}"
    server = OwnPrometheus(tmp_path_factory.mktemp("prometheus") / "server", target)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def at_work(fleet: Fleet, prometheus: OwnPrometheus) -> Iterator[OwnPrometheus]:
    """Jobs of each sort have run before the first scrape, and while it was scraped: rates need both."""
    until(lambda: prometheus.query('up{job="comfyline"} == 1'), timeout_s=60, what="a scrape")
    with receiving() as receiver:
        webhook = {"url": f"http://127.0.0.1:{receiver.server_port}/hook"}
        for wave in range(4):
            ids = [fleet.submit(sampled(wave * 10 + number), webhook=webhook) for number in range(3)]
            ids += [fleet.submit(work(0.3, seed=wave))]
            # A template too.
            answer = requests.post(
                f"{fleet.base_url}/workflows/text2image",
                json={"parameters": {"prompt": "a lighthouse", "seed": wave}},
                timeout=10,
            )
            assert answer.ok, answer.text
            # And one that nobody can find.
            requests.get(f"{fleet.base_url}/nowhere", timeout=10)
            for job_id in ids:
                fleet.wait(job_id, "succeeded", timeout_s=120)
            until(lambda: prometheus.query("comfyline_job_wait_seconds_count"), timeout_s=60, what="ended jobs")
        yield prometheus


def test_promtool_finds_nothing_wrong_with_a_scrape(fleet: Fleet, at_work: OwnPrometheus) -> None:
    text = requests.get(f"{fleet.base_url}/metrics", timeout=10).content

    checked = promtool("check", "metrics", text=text)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_every_query_of_the_board_has_data(at_work: OwnPrometheus) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in QUERIES]

    for query in queries:
        until(lambda query=query: at_work.query(query), timeout_s=60, what=query)  # type: ignore[misc]
    assert len(queries) > 40


def test_every_recording_rule_has_data_and_no_alert_is_raised(at_work: OwnPrometheus) -> None:
    for name in RECORDED:
        until(lambda name=name: at_work.query(name), timeout_s=60, what=name)  # type: ignore[misc]

    assert [series.labels["alertname"] for series in at_work.query('ALERTS{alertstate="firing"}')] == []


def test_the_sums_are_those_of_the_jobs(fleet: Fleet, at_work: OwnPrometheus) -> None:
    wanted = {"limit": "100", "status": "succeeded"}
    listed = requests.get(f"{fleet.base_url}/api/v2/jobs", params=wanted, timeout=10).json()
    ended = len(listed["jobs"])

    def is_so() -> bool:
        found = at_work.query('sum(comfyline_jobs_ended_total{status="succeeded"})')
        return [series.value for series in found] == [ended]

    assert ended >= 16
    until(is_so, timeout_s=60, what=f"{ended} jobs in the sums")
