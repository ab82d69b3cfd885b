"""What is wrong with a batch is noticed: by one of the API that comes to its end step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from core.ledger.database.tables import deliveries
from core.ledger.webhooks.outbox_writer import DELIVERED
from tests.chaos.batches import wrong_batches
from tests.chaos.orders import LABEL, V2, Order, make_orders, submissions
from tests.integration.api_fixtures import INSTANCE, Api, running_api, settings_for
from tests.makers import GRAPH

NAME = "chaos-batch-1"
ORDERS = [Order(number=number, contract=V2, seconds=0.1, batch=NAME) for number in (1, 2)]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with running_api(settings_for(tmp_path, allow_networks=("loopback",))) as running:
        running.worker.come_up()
        body = {
            "jobs": [{"workflow": GRAPH, "metadata": {LABEL: order.name}} for order in ORDERS],
            "label": NAME,
            "webhook": {"url": "http://127.0.0.1:9/", "secret": "a-shared-secret"},
        }
        answer = running.post("/api/v2/batches", body)
        assert answer.status_code == 201, answer.text
        yield running


def end_both(api: Api) -> None:
    for _ in ORDERS:
        claim = api.ledger.claims.claim(INSTANCE)
        assert claim is not None
        api.worker.finish(claim, b"a picture")


def delivered(api: Api) -> dict[str, list[dict[str, Any]]]:
    """Have its one event delivered; returns the posts."""
    with api.ledger.database.write() as transaction:
        [row] = transaction.connection.execute(select(deliveries)).all()
        transaction.connection.execute(update(deliveries).values(state=DELIVERED, tries=1))
    return {row.id: [{"data": {"counts": {"succeeded": 2}}}]}


def test_a_batch_that_ended_and_told_so_once_is_right(api: Api) -> None:
    end_both(api)
    assert list(wrong_batches(api.ledger, ORDERS, delivered(api))) == []


def test_a_batch_that_has_not_ended_is_wrong(api: Api) -> None:
    problems = " ".join(wrong_batches(api.ledger, ORDERS, {}))
    assert "it was completed 0 times" in problems
    assert "0 webhook events" in problems


def test_an_event_that_did_not_come_or_came_too_often_is_wrong(api: Api) -> None:
    end_both(api)
    assert "batch.completed is pending" in " ".join(wrong_batches(api.ledger, ORDERS, {}))
    posts = delivered(api)
    twice = {event: bodies * 2 for event, bodies in posts.items()}
    assert "it was told 2 times in 1 tries" in " ".join(wrong_batches(api.ledger, ORDERS, twice))
    assert "it was told 0 times" in " ".join(wrong_batches(api.ledger, ORDERS, {}))


def test_counts_that_are_not_those_of_its_jobs_are_wrong(api: Api) -> None:
    end_both(api)
    [event] = delivered(api)
    lie = {event: [{"data": {"counts": {"succeeded": 1, "failed": 1}}}]}
    assert "it told" in " ".join(wrong_batches(api.ledger, ORDERS, lie))


def test_jobs_that_a_batch_lacks_and_batches_that_nobody_knows_are_wrong(api: Api) -> None:
    end_both(api)
    posts = delivered(api)
    assert "its jobs are" in " ".join(wrong_batches(api.ledger, ORDERS[:1], posts))
    assert "alone" in " ".join(wrong_batches(api.ledger, [], posts))


def test_a_batch_of_orders_is_one_submission_of_one_tenant() -> None:
    orders = make_orders(1, 200)
    batches = [group for group in submissions(orders) if group[0].batch]
    assert 5 < len(batches) < 40
    assert all(len({(order.batch, order.tenant, order.contract) for order in group}) == 1 for group in batches)
    assert sum(len(group) for group in submissions(orders)) == len(orders)
    assert make_orders(1, 200) == orders
