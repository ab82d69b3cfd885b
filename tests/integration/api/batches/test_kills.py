"""An API process is killed in the midst of a batch: nothing is taken by halves, and what was begun is finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
import requests

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.access import ALL_TENANTS
from core.records.job_error import JobError
from core.settings import Settings
from tasks.reconciling.batches import carry_on_batches
from tests.integration.api.batches.helpers import BATCHES
from tests.integration.api_fixtures import (
    INSTANCE,
    REDIS_URL,
    ROOT,
    Worker,
    gunicorn_api,
    postgres_database,
    settings_for,
)
from tests.makers import GRAPH, BrokerlessRuntime
from tests.services import missing

pytestmark = pytest.mark.timeout(300)

#: An API process that does one request, and kills itself when it calls a function for the n-th time.
DYING = """
import json, os, signal, sys
from pathlib import Path
from tests.integration.api_fixtures import Hub, Ledger, RecordingPublisher, create_app, settings_for
from core.ledger.batches import intake, work

data_dir, url, path, body, function, left = sys.argv[1:7]
left = int(left)
work.STEP = 3
settings = settings_for(Path(data_dir), database_url=url)
ledger, publisher = Ledger(settings), RecordingPublisher()
hub = Hub(ledger.jobs.states, ledger.jobs.many, poll_s=1)
app = create_app(settings, ledger=ledger, publisher=publisher, hub=hub, ask=publisher.ask)

def dying(call):
    def called(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return called

for module in (intake, work):
    if hasattr(module, function):
        setattr(module, function, dying(getattr(module, function)))
print(app.test_client().post(path, json=json.loads(body)).status, flush=True)
os._exit(0)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgresql" else ""
        made = settings_for(tmp_path_factory.mktemp("api"), database_url=url)
        migrate(made)
        yield made


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    found = Ledger(settings)
    Worker(found, settings.outputs_dir).come_up()
    yield found
    found.close()


def asked(settings: Settings, path: str, body: dict[str, Any], *dying: str) -> subprocess.CompletedProcess[str]:
    """Have a process of its own do a request. Parameters: dying - the function in which it dies, and at which call."""
    arguments = [str(settings.data_dir), settings.database_url, path, json.dumps(body), *dying]
    command, environment = [sys.executable, "-c", DYING, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, env=environment)


def killed(settings: Settings, path: str, body: dict[str, Any], function: str, nth: int) -> None:
    done = asked(settings, path, body, function, str(nth))
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def submitted(settings: Settings, ledger: Ledger, count: int) -> str:
    done = asked(settings, BATCHES, body_of(count), "nothing", "1")
    assert "201" in done.stdout, done.stdout + done.stderr
    return ledger.batches.page()[0].id


def body_of(count: int) -> dict[str, Any]:
    return {"workflow": GRAPH, "over": {"1.color": f"1..{count}"}}


@pytest.mark.parametrize("nth", [1, 300])
def test_a_batch_that_was_being_recorded_is_not_there(settings: Settings, ledger: Ledger, nth: int) -> None:
    killed(settings, BATCHES, body_of(500), "first_event", nth)
    assert ledger.batches.page() == []
    assert ledger.jobs.page() == []
    assert ledger.claims.claim(INSTANCE) is None
    with ledger.database.read() as connection:
        assert ledger.lines.waiting(connection) == []


def test_a_cancel_is_finished_by_the_reconciler(settings: Settings, ledger: Ledger) -> None:
    batch_id = submitted(settings, ledger, 10)
    killed(settings, f"{BATCHES}/{batch_id}/cancel", {}, "_canceled", 3)
    half = ledger.batches.get(batch_id)
    assert half.counts == {"canceled": 6, "queued": 4}
    carry_on(settings)
    done = ledger.batches.get(batch_id)
    assert (done.counts, done.state, done.cancel_before_ms, done.completions) == (
        {"canceled": 10},
        "completed",
        None,
        1,
    )


def test_a_retry_is_finished_by_the_reconciler(settings: Settings, ledger: Ledger) -> None:
    batch_id = submitted(settings, ledger, 10)
    for _ in range(10):
        claim = ledger.claims.claim(INSTANCE)
        assert claim is not None
        ledger.claims.fail(claim, JobError(code="node_failed", message="too dark"))
    assert ledger.batches.get(batch_id).completions == 1
    killed(settings, f"{BATCHES}/{batch_id}/retry", {}, "_again", 5)
    assert ledger.batches.get(batch_id).counts == {"queued": 3, "failed": 7}
    carry_on(settings)
    done = ledger.batches.get(batch_id)
    assert (done.counts, done.state, done.retry_before_ms, done.completions) == ({"queued": 10}, "running", None, 1)
    assert [job.batch_index for job in ledger.batch_children.page(batch_id, of=ALL_TENANTS)] == list(range(10))


def carry_on(settings: Settings) -> None:
    """One tick of the reconciler, as far as batches are concerned."""
    runtime = BrokerlessRuntime(settings)
    try:
        carry_on_batches(runtime)
    finally:
        runtime.close()


@pytest.mark.slow
def test_two_processes_make_one_batch_of_one_request(settings: Settings, ledger: Ledger) -> None:
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    with closing(redis.Redis.from_url(REDIS_URL)) as keys, ExitStack() as stack:
        try:
            keys.ping()
        except redis.ConnectionError:
            missing(f"no Redis answers at {REDIS_URL} (set COMFYLINE_TEST_REDIS_URL)")
        stack.callback(lambda: [keys.delete(key) for key in keys.scan_iter(f"{namespace}*")])
        shared = settings.model_copy(update={"broker_url": REDIS_URL, "broker_namespace": namespace})
        urls = [stack.enter_context(gunicorn_api(shared)) for _ in range(2)]
        pool = stack.enter_context(ThreadPoolExecutor(8))

        def post(number: int) -> requests.Response:
            headers = {"Idempotency-Key": "once"}
            return requests.post(urls[number % 2] + BATCHES, json=body_of(200), headers=headers, timeout=60)

        answers = list(pool.map(post, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert ledger.jobs.count("queued") == 200
