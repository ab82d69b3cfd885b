"""Webhook deliveries over HTTP and on the command line: listed with their tries, sent again, forgotten."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from core.ledger import Ledger
from core.ledger.secrets import RUN, WEBHOOK
from core.ledger.webhooks.outbox import TryResult
from core.records.webhook_target import WebhookTarget
from tests.integration.api_fixtures import Api, running_api, settings_for
from tests.ledger_moves import submit

#: The public key is that of the private key of 32 zero bytes.
KEY = base64.b64encode(bytes(32)).decode()
PUBLIC_KEY = "whpk_O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik="
URL = "https://hooks.example:8443/in/1?token=t0k3n"
SHOWN = "https://hooks.example:8443/in/1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(settings_for(tmp_path_factory.mktemp("api"), webhook_signing_key=KEY)) as running:
        running.worker.come_up()
        yield running


@pytest.fixture
def api(server: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A server without deliveries, which the command line talks to."""
    for state in ("dead", "delivered"):
        server.ledger.deliveries.purge(state)
    monkeypatch.setenv("COMFY_BASE_URL", server.url)
    return server


def canceled(api: Api, **webhook: Any) -> str:
    """A job that has ended, with a webhook that is told of it."""
    job_id = api.submit(webhook={"url": URL, **webhook})
    assert api.post(f"/api/v2/jobs/{job_id}/cancel").status_code == 200
    return job_id


def tried(api: Api, job_id: str, error: str | None, *, is_final: bool = False) -> str:
    """One try at the delivery of a job; returns the delivery's id."""
    (due,) = api.ledger.outbox.due(job_ids=[job_id])
    (post,) = api.ledger.outbox.take([due.id])
    outcome = TryResult(
        at_ms=int(time.time() * 1000),
        duration_ms=12,
        status_code=500 if error else 204,
        error=error,
        is_final=is_final,
    )
    api.ledger.outbox.record([(post, outcome)])
    return due.id


def dead(api: Api) -> str:
    return tried(api, canceled(api), "answered 500", is_final=True)


def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/webhooks/deliveries{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["deliveries"]
    return found


def test_a_delivery_shows_every_try_and_no_token(api: Api) -> None:
    job_id = canceled(api)
    delivery_id = tried(api, job_id, "answered 500")

    answer = api.get(f"/webhooks/deliveries/{delivery_id}")

    found = answer.json()
    assert answer.status_code == 200
    assert (found["id"], found["job_id"], found["event"], found["state"]) == (
        delivery_id,
        job_id,
        "job.canceled",
        "pending",
    )
    assert (found["url"], found["tries"], found["sequence"]) == (SHOWN, 1, 2)
    assert found["next_try_at"] > found["created_at"]
    (attempt,) = found["attempts"]
    assert (attempt["number"], attempt["status_code"], attempt["error"], attempt["duration_ms"]) == (
        1,
        500,
        "answered 500",
        12,
    )
    assert listed(api, f"?job_id={job_id}") == [found]
    assert api.get(f"/api/v2/jobs/{job_id}/deliveries").json() == {"deliveries": [found], "next_cursor": None}
    assert "t0k3n" not in answer.text


def test_they_are_listed_by_state_page_by_page(api: Api) -> None:
    dead_ids = [dead(api) for _ in range(3)]
    delivered_id = tried(api, canceled(api), None)

    assert [each["id"] for each in listed(api, "?state=delivered")] == [delivered_id]
    assert {each["id"] for each in listed(api, "?state=dead")} == set(dead_ids)
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = api.get(f"/webhooks/deliveries?state=dead&limit=1{cursor}").json()
        seen += [each["id"] for each in page["deliveries"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(dead_ids)
    assert page["next_cursor"] is None


def test_a_dead_one_is_sent_again_under_its_id(api: Api) -> None:
    delivery_id = dead(api)
    before = api.get(f"/webhooks/deliveries/{delivery_id}").json()
    assert (before["state"], before["next_try_at"]) == ("dead", None)

    answer = api.post(f"/webhooks/deliveries/{delivery_id}/replay")

    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert api.publisher.notified[-1] == before["job_id"], "somebody is told to send it now"
    assert tried(api, before["job_id"], None) == delivery_id
    after = api.get(f"/webhooks/deliveries/{delivery_id}").json()
    assert (after["state"], [attempt["number"] for attempt in after["attempts"]]) == ("delivered", [1, 2])


def test_a_secret_that_was_deleted_has_to_come_again(
    api: Api, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job_id = canceled(api, secret="s3cret")
    delivery_id = tried(api, job_id, "answered 500", is_final=True)
    replay = f"/webhooks/deliveries/{delivery_id}/replay"
    assert api.ledger.secrets.wipe() == 1

    for body in (None, {}, {"secret": ""}):
        answer = api.post(replay, body)
        assert answer.status_code == 422
        assert "was deleted after its last use" in answer.json()["error"]["message"]
    assert api.post(replay, {"secrets": "s"}).status_code == 422
    assert api.get(f"/webhooks/deliveries/{delivery_id}").json()["state"] == "dead"
    (tmp_path / "secret").write_text("s3cret\n")
    assert run(["webhooks", "replay", delivery_id]) == 2
    assert "send it again" in capsys.readouterr().err
    assert run(["webhooks", "replay", delivery_id, "--secret-file", str(tmp_path / "secret")]) == 0
    assert api.ledger.secrets.open(job_id, WEBHOOK) == {"webhook_secret": "s3cret"}
    assert api.post(replay, {"secret": ["newer", "s3cret"]}).status_code == 202
    assert api.ledger.secrets.open(job_id, WEBHOOK) == {"webhook_secret": ["newer", "s3cret"]}
    tried(api, job_id, None)


def test_headers_that_were_deleted_have_to_come_again_with_the_secret(api: Api, tmp_path: Path) -> None:
    headers = {"Authorization": "Basic Z2F0ZTprZXk="}
    job_id = canceled(api, secret="s3cret", headers=headers)
    delivery_id = tried(api, job_id, "answered 500", is_final=True)
    replay = f"/webhooks/deliveries/{delivery_id}/replay"

    assert api.post(replay, {"secret": "newer"}).status_code == 202
    kept = {"webhook_secret": "newer", "webhook_headers": headers}
    assert api.ledger.secrets.open(job_id, WEBHOOK) == kept, "what did not come again is still there"
    tried(api, job_id, "answered 500", is_final=True)
    assert api.ledger.secrets.wipe() >= 1

    answer = api.post(replay, {"secret": "newer"})
    assert answer.status_code == 422
    assert "The headers that came with the job were deleted" in answer.json()["error"]["message"]
    assert api.post(replay).status_code == 422
    (tmp_path / "secret").write_text("newer")
    (tmp_path / "headers").write_text("{")
    files = ["--secret-file", str(tmp_path / "secret"), "--headers-file", str(tmp_path / "headers")]
    assert run(["webhooks", "replay", delivery_id, *files]) == 2
    (tmp_path / "headers").write_text(json.dumps(headers))
    assert run(["webhooks", "replay", delivery_id, *files]) == 0
    assert api.ledger.secrets.open(job_id, WEBHOOK) == kept
    shown = [api.get(path).text for path in (f"/webhooks/deliveries/{delivery_id}", f"/api/v2/jobs/{job_id}")]
    assert "Z2F0ZTprZXk" not in "".join(shown)
    tried(api, job_id, None)


def test_those_given_up_long_enough_ago_are_forgotten(api: Api) -> None:
    delivery_id, waiting = dead(api), canceled(api)

    def purge(query: str) -> Any:
        answer = api.session.delete(f"{api.url}/webhooks/deliveries?{query}", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert purge("state=dead&older_than=3600") == {"purged": 0}
    assert purge("state=delivered") == {"purged": 0}
    assert purge("state=dead") == {"purged": 1}
    assert api.get(f"/webhooks/deliveries/{delivery_id}").status_code == 404
    assert len(listed(api, f"?job_id={waiting}")) == 1
    tried(api, waiting, None)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "?state=lost", 400, "known are pending, sending, delivered, dead"),
        ("GET", "?limit=0", 400, "limit must be an integer from 1 to 100"),
        ("GET", "?cursor=x", 400, "This cursor was not issued"),
        ("GET", "?job_id=%00", 404, "no such thing"),
        ("DELETE", "", 400, "state is missing: it must be one of delivered, dead"),
        ("DELETE", "?state=pending", 400, "known are delivered, dead"),
        ("DELETE", "?state=dead&older_than=-1", 400, "older_than must be a whole number of seconds"),
        ("GET", "/no-such-one", 404, "There is no delivery no-such-one"),
        ("POST", "/no-such-one/replay", 404, "There is no delivery no-such-one"),
    ],
)
def test_what_makes_no_sense_is_refused(api: Api, method: str, path: str, status: int, words: str) -> None:
    answer = api.session.request(method, f"{api.url}/webhooks/deliveries{path}", timeout=10)

    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_a_job_that_is_not_there_has_no_deliveries(api: Api) -> None:
    assert api.get("/api/v2/jobs/no-such-one/deliveries").status_code == 404


def test_receivers_get_the_public_key_without_a_key_of_the_api(api: Api, tmp_path: Path) -> None:
    assert api.get("/webhooks/public-key").json() == {"public_key": PUBLIC_KEY}
    with running_api(settings_for(tmp_path, api_keys=("k",))) as other:
        answer = other.get("/webhooks/public-key")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert other.get("/webhooks/deliveries").status_code == 401


def test_the_command_line_lists_and_shows_them(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    job_id = canceled(api)
    delivery_id = tried(api, job_id, "answered 500", is_final=True)
    tried(api, canceled(api), None)

    assert run(["webhooks", "list", "--dead"]) == 0
    assert capsys.readouterr().out == f"{delivery_id}\tdead\tjob.canceled\t{job_id}\t1\t-\tanswered 500\t{SHOWN}\n"
    assert run(["webhooks", "list", "--limit", "1", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["delivered"]
    assert run(["webhooks", "list", "--job", job_id]) == 0
    assert capsys.readouterr().out.startswith(delivery_id)
    assert run(["webhooks", "show", delivery_id]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{delivery_id}  dead"
    assert lines[-1].startswith("  try 1 ")
    assert lines[-1].endswith("  answered 500  (12 ms)")


def test_the_command_line_lists_more_than_a_page(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {dead(api) for _ in range(3)}
    monkeypatch.setattr("cli.commands.webhooks.PAGE", 2)

    assert run(["webhooks", "list", "--dead", "--limit", "50"]) == 0
    assert {line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()} == ids


def test_the_command_line_sends_again_what_it_can(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    delivery_id = dead(api)

    assert run(["webhooks", "replay", "no-such-one", delivery_id]) == 2
    out, err = capsys.readouterr()
    assert out == f"{delivery_id}  pending\n"
    assert "no-such-one: There is no delivery no-such-one." in err
    assert run(["webhooks", "replay", delivery_id, "--json"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)] == [delivery_id]


def test_a_beginning_of_a_deliverys_id_will_do(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [dead(api) for _ in range(17)]
    # Of 17 ids two begin with the same digit.
    digit = next(each[0] for each in ids if sum(other[0] == each[0] for other in ids) > 1)

    assert run(["webhooks", "show", ids[0][:9], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == ids[0]
    assert run(["webhooks", "replay", digit, ids[1][:9]]) == 2
    out, err = capsys.readouterr()
    assert out == f"{ids[1]}  pending\n"
    assert f"{digit} is too short" in err


def test_the_command_line_forgets_only_what_it_is_told_to(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    dead(api)

    assert run(["webhooks", "purge"]) == 2
    assert run(["webhooks", "purge", "--dead", "--older-than", "3600"]) == 0
    assert run(["webhooks", "purge", "--dead", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("0 forgotten\n")
    assert json.loads(out.partition("\n")[2]) == {"purged": 1}
    assert run(["webhooks", "show", "no-such-one"]) == 2


def test_a_secret_that_comes_again_takes_the_place_of_its_own_purpose_alone(ledger: Ledger) -> None:
    secrets = {"api_key_comfy_org": "partner", "webhook_secret": "first"}
    job_id = submit(ledger, secrets=secrets, webhook=WebhookTarget(url=URL, timeout_s=5.0)).id

    ledger.secrets.renew(job_id, {"webhook_secret": ["second", "first"]})

    assert ledger.secrets.open(job_id, WEBHOOK) == {"webhook_secret": ["second", "first"]}
    assert ledger.secrets.open(job_id, RUN) == {"api_key_comfy_org": "partner"}
