"""The examples for KEDA: fields that its documentation has, and what they ask our API for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.contracts.autoscale_views import PoolView
from core.settings import Settings
from tests.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes" / "keda"
FILES = sorted(FOLDER.glob("*.yaml"))
#: Of KEDA's documentation, 2.15 to 2.22: "ScaledObject specification", "Metrics API", "Prometheus".
SPEC = {
    "scaleTargetRef",
    "minReplicaCount",
    "maxReplicaCount",
    "pollingInterval",
    "cooldownPeriod",
    "advanced",
    "triggers",
}
TRIGGER = {"type", "metricType", "metadata", "authenticationRef"}
METADATA = {
    "metrics-api": {"url", "format", "valueLocation", "targetValue", "activationTargetValue", "unsafeSsl", "authMode"},
    "prometheus": {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "authModes"},
}
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def scaled(file: Path) -> dict[str, Any]:
    [found] = [each for each in documents(file) if each["kind"] == "ScaledObject"]
    assert found["apiVersion"] == "keda.sh/v1alpha1"
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_fields_are_those_that_keda_knows(file: Path) -> None:
    spec = scaled(file)
    assert set(spec) <= SPEC
    [trigger] = spec["triggers"]
    assert set(trigger) <= TRIGGER
    assert set(trigger["metadata"]) <= METADATA[trigger["type"]]
    # KEDA reads them as text.
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    for direction in ("scaleUp", "scaleDown"):
        assert behavior[direction]["stabilizationWindowSeconds"] == 0, "the idle window is ours"
        [policy] = behavior[direction]["policies"]
        assert policy["value"] >= spec["maxReplicaCount"], "at once"


def test_what_is_asked_for_is_there() -> None:
    [trigger] = scaled(FOLDER / "metrics-api.yaml")["triggers"]
    metadata = trigger["metadata"]
    assert metadata["valueLocation"] in PoolView.__annotations__
    path = re.sub(r"https?://[^/]+", "", metadata["url"])
    assert path == "/api/v2/autoscale/-"
    assert "`GET /api/v2/autoscale/{id}`" in API


def test_the_key_is_referred_to() -> None:
    secret, authentication, scaled_object = documents(FOLDER / "metrics-api.yaml")
    [reference] = authentication["spec"]["secretTargetRef"]
    assert (reference["parameter"], reference["name"]) == ("token", secret["metadata"]["name"])
    assert reference["key"] in secret["stringData"]
    [trigger] = scaled_object["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert trigger["metadata"]["authMode"] == "bearer"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_limits_beside_it_are_a_setting(file: Path) -> None:
    spec = scaled(file)
    said = re.search(r"COMFYLINE_AUTOSCALE_POOLS: (\S+)", file.read_text(encoding="utf-8"))
    assert said is not None
    [(_, least, most)] = Settings(autoscale_pools=said[1]).autoscale_pools
    assert (least, most) == (spec["minReplicaCount"], spec["maxReplicaCount"])
