"""docs/metrics.md lists every family; rules and the board name no other; each alert has a section and a test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from api.server.metrics.scrape import FAMILIES
from core.metrics.family import Family
from tests.paths import ROOT

METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ALERTS = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
DEPLOY = ROOT / "deploy"
#: A name of a family, or of what a histogram or a rule makes of one.
NAME = re.compile(r"\b(comfyline[_:][a-z0-9_:]+)\b")


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / "prometheus" / name).read_text(encoding="utf-8"))


RECORDED = {
    rule["record"]: rule["expr"] for group in loaded("comfyline.recording.yaml")["groups"] for rule in group["rules"]
}
RAISED = {rule["alert"]: rule for group in loaded("comfyline.alerts.yaml")["groups"] for rule in group["rules"]}
BOARD = json.loads((DEPLOY / "grafana" / "comfyline.json").read_text(encoding="utf-8"))


def samples_of(family: Family) -> set[str]:
    """The names of its samples."""
    if family.kind == "histogram":
        return {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return {family.name}


KNOWN = {name for family in FAMILIES for name in samples_of(family)} | set(RECORDED)


def queries() -> Iterator[tuple[str, str]]:
    """Everything that asks Prometheus for something."""
    yield from RECORDED.items()
    yield from ((name, rule["expr"]) for name, rule in RAISED.items())
    for panel in BOARD["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def test_every_family_is_listed_as_it_is_and_no_other() -> None:
    rows = re.findall(r"^\| `(comfyline_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", METRICS, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}

    assert listed == {family.name: (family.kind, family.labels, family.help) for family in FAMILIES}
    assert len(rows) == len(listed)


def test_names_say_what_prometheus_expects_of_them() -> None:
    for family in FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert family.help.endswith("."), family.name
        # As prometheus-client writes them, and the text is put together.
        assert list(family.labels) == sorted(family.labels)
        assert family.kind != "histogram" or all(label > "le" for label in family.labels)
        assert list(family.buckets) == sorted(set(family.buckets))
        # Prometheus has these of its own.
        assert not {"job", "instance", "le"} & set(family.labels), family.name


@pytest.mark.parametrize(("where", "query"), sorted(set(queries())))
def test_a_query_names_what_there_is(where: str, query: str) -> None:
    named = set(NAME.findall(query))

    assert named, f"{where} asks for nothing of ours"
    assert named <= KNOWN, f"{where} asks for {named - KNOWN}"


def test_labels_in_queries_are_those_of_their_families() -> None:
    labels = {name: set(family.labels) for family in FAMILIES for name in samples_of(family)}
    for where, query in queries():
        for name, given in re.findall(r"\b(comfyline_\w+)\{([^}]*)\}", query):
            asked = set(re.findall(r"(\w+)\s*=", given))
            assert asked <= labels[name], f"{where}: {name}"


@pytest.mark.parametrize("alert", sorted(RAISED))
def test_an_alert_has_a_section_that_says_where_to_look_and_what_to_do(alert: str) -> None:
    section = re.search(rf"^## {alert}\n(.*?)(?=^## |\Z)", ALERTS, re.MULTILINE | re.DOTALL)

    assert section is not None
    assert "\n- Look: " in section[1]
    assert "\n- Do: " in section[1]
    assert RAISED[alert]["annotations"]["runbook"] == f"docs/alerts.md#{alert.lower()}"
    assert RAISED[alert]["labels"]["severity"] in ("critical", "warning")


def test_no_section_is_of_an_alert_that_is_gone() -> None:
    assert re.findall(r"^## (\w+)$", ALERTS, re.MULTILINE) == list(RAISED)


def test_every_alert_is_raised_by_a_test() -> None:
    tests = loaded("comfyline.tests.yaml")["tests"]

    assert {test["name"] for test in tests} == {*RAISED, "none"}
    for test in tests:
        series = {NAME.match(each["series"]) for each in test["input_series"]}
        assert all(name is None or name[1] in KNOWN for name in series), test["name"]


def test_panels_of_the_board_lie_side_by_side_and_have_names_of_their_own() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
