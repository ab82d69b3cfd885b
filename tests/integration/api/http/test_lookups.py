"""Host names that a resolver takes long over: whoever names them waits, and nobody else does."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import pytest
import requests

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from tests.integration.api.test_inputs import files as files
from tests.integration.api.test_inputs import loading
from tests.integration.api_fixtures import Worker, gunicorn_api, settings_for
from tests.makers import GRAPH
from tests.services import Broker
from tests.slow_resolver import SLOW_S, slow_resolver
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

#: More than gevent has threads for all that blocks.
SLOW_CLIENTS = 40
PROMPT_S = 5.0


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker) -> Iterator[str]:
    settings = settings_for(
        tmp_path_factory.mktemp("api"), broker_url=shared_redis.url, broker_namespace=shared_redis.namespace
    )
    migrate(settings)
    with closing(Ledger(settings)) as ledger:
        Worker(ledger, settings.outputs_dir).come_up()
        with gunicorn_api(settings, **slow_resolver(tmp_path_factory.mktemp("resolver"))) as url:
            yield url


def test_nobody_waits_for_the_names_of_others(url: str, files: str) -> None:
    def submit(image: str) -> requests.Response:
        return requests.post(f"{url}/api/v2/jobs", json={"workflow": loading(image)}, timeout=60)

    with ThreadPoolExecutor(SLOW_CLIENTS) as clients:
        slow = [clients.submit(submit, f"http://{uuid.uuid4()}.slow.invalid/a.png") for _ in range(SLOW_CLIENTS)]
        # They come first.
        time.sleep(1.0)
        begun_s = time.monotonic()

        named = submit(f"http://fast.invalid:{urlsplit(files).port}/a.png")
        plain = requests.post(f"{url}/api/v2/jobs", json={"workflow": GRAPH}, timeout=60)

        assert time.monotonic() - begun_s < min(PROMPT_S * PATIENCE, SLOW_S - 2)
        assert (named.status_code, plain.status_code) == (201, 201), named.text
        assert not any(answer.done() for answer in slow)
        assert {answer.result().status_code for answer in slow} == {422}
    assert time.monotonic() - begun_s < SLOW_S, "and they not longer than for a connection"
