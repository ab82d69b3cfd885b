"""The last hour over HTTP: what the reconciler noted, for operators alone."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import requests

from tests.integration.api_fixtures import running_api, settings_for


def test_the_last_hour_is_told_to_operators(tmp_path: Path) -> None:
    with running_api(settings_for(tmp_path)) as api:
        assert api.get("/api/v2/history").json() == {"every_s": 30.0, "samples": []}
        api.worker.come_up()
        api.submit()
        assert api.ledger.history.note()
        [sample] = api.get("/api/v2/history").json()["samples"]
        assert datetime.fromisoformat(sample.pop("at").replace("Z", "+00:00"))
        assert sample == {"jobs_waiting": 1, "jobs_running": 0, "gpus": 1, "gpus_busy": 0, "wait_p95_s": None}
        _, secret = api.ledger.keys.create("default", name="page", scopes=("read",))
        refused = requests.get(f"{api.url}/api/v2/history", headers={"X-API-Key": secret}, timeout=20)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
