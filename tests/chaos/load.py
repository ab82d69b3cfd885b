"""Clients that keep a fleet busy while it is taken apart: each repeats what got no answer, until it knows."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from core.ledger import Ledger
from core.records.job import CANCELING, DELIVERING, QUEUED, RUNNING, Status
from tests.chaos.orders import LABEL, MAX_RUNNING, V2, Order, submissions

CLIENTS = 3
CANCELLERS = 4
#: A client that hears nothing for this long has found a bug.
ANSWER_S = 60.0
#: For how long a batch is paused that is.
PAUSED_S = 0.5
OPEN: tuple[Status, ...] = (QUEUED, RUNNING, CANCELING, DELIVERING)
#: How `/cancel` words the statuses that matter here.
CANCEL_WORDS = {"cancelled": CANCELING, "completed": "succeeded", "failed": "failed"}


@dataclass(kw_only=True)
class Accepted:
    """What a client knows about an order of which it was told that it stands."""

    order: Order
    #: Empty where only the repetition was answered.
    job_id: str
    #: The status with which its cancellation was answered.
    cancel_answer: str | None = None


class Clients:
    """Everything clients do, each call until it is answered. Raises AssertionError for an answer that is wrong."""

    def __init__(self, base_url: str, webhook_url: str, keys: Mapping[str, str] = {}) -> None:
        """Parameters: keys - of tenants; none: the fleet asks for none."""
        self._base_url = base_url
        self._webhook_url = webhook_url
        self._keys = keys

    def submit(self, order: Order) -> Accepted:
        """Submit one order; return when it is known that it stands."""
        return self._submit_v2(order) if order.contract == V2 else self._submit_generate(order)

    def submit_batch(self, orders: Sequence[Order]) -> list[Accepted]:
        """Submit the orders of a batch; return when it is known that all of them stand."""
        name, tenant, number = orders[0].batch, orders[0].tenant, orders[0].number
        body: dict[str, Any] = {
            "jobs": [{"workflow": order.graph(), "metadata": {LABEL: order.name}} for order in orders],
            "label": name,
            "webhook": {"url": self._webhook_url, "extra_params": {LABEL: number}},
        }
        if number % 2:
            body["max_running"] = MAX_RUNNING
        headers = {"Idempotency-Key": name}
        answer, _ = self._ask("POST", "/api/v2/batches", body, headers, tenant=tenant)
        assert answer.status_code == 201, answer.text
        assert answer.json()["total"] == len(orders)
        if number % 3 == 0:
            for change, pause_s in (("pause", PAUSED_S), ("resume", 0.0)):
                path = f"/api/v2/batches/{answer.json()['id']}/{change}"
                changed, _ = self._ask("POST", path, None, tenant=tenant)
                assert changed.status_code == 200, changed.text
                time.sleep(pause_s)
        return [Accepted(order=order, job_id="") for order in orders]

    def cancel(self, accepted: Accepted) -> str:
        """Ask for a job's end; returns the status in the answer."""
        if accepted.order.contract != V2:
            answer, _ = self._ask("POST", f"/cancel/{accepted.order.name}", None, tenant=accepted.order.tenant)
            assert answer.status_code == 200, answer.text
            return CANCEL_WORDS[answer.json()["status"]]
        job_id = accepted.job_id or self._find(accepted.order)
        answer, _ = self._ask("POST", f"/api/v2/jobs/{job_id}/cancel", None, tenant=accepted.order.tenant)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    def _submit_v2(self, order: Order) -> Accepted:
        body = {"workflow": order.graph(), "metadata": {LABEL: order.name}}
        headers = {"Idempotency-Key": order.name}
        answer, is_repeated = self._ask("POST", "/api/v2/jobs", body, headers, tenant=order.tenant)
        if answer.status_code == 201:
            return Accepted(order=order, job_id=answer.json()["id"])
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["code"] == "idempotency_key_reuse", answer.text
        assert is_repeated, f"{order.name}: the key was used before it was sent"
        return Accepted(order=order, job_id="")

    def _submit_generate(self, order: Order) -> Accepted:
        fields: dict[str, Any] = {"workflow_json": order.graph(), "request_id": order.name}
        if order.has_webhook:
            fields["webhook"] = {"url": self._webhook_url, "extra_params": {LABEL: order.number}}
        answer, is_repeated = self._ask("POST", "/generate", {"input": fields}, tenant=order.tenant)
        if answer.status_code != 202:
            # This contract has no code of its own for an id that is taken; whether it is ours, its result tells.
            assert answer.status_code == 422, answer.text
            assert is_repeated, f"{order.name}: refused at the first time: {answer.text}"
            answer, _ = self._ask("GET", f"/result/{order.name}", None, tenant=order.tenant)
            assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == order.name
        return Accepted(order=order, job_id="")

    def _find(self, order: Order) -> str:
        answer, _ = self._ask("GET", f"/api/v2/jobs?metadata[{LABEL}]={order.name}", None, tenant=order.tenant)
        [job] = answer.json()["jobs"]
        return str(job["id"])

    def _ask(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] = {}, *, tenant: str
    ) -> tuple[requests.Response, bool]:
        """The first answer that is one, and whether the request was sent before."""
        if tenant in self._keys:
            headers = {**headers, "X-API-Key": self._keys[tenant]}
        give_up_s = time.monotonic() + ANSWER_S
        for count in itertools.count():
            try:
                answer = requests.request(method, self._base_url + path, json=body, headers=headers, timeout=10)
            except requests.RequestException as exc:
                said = type(exc).__name__
            else:
                if answer.status_code != requests.codes.service_unavailable:
                    return answer, count > 0
                said = answer.text
            assert time.monotonic() < give_up_s, f"{method} {path} is not answered: {said}"
            time.sleep(0.1)
        raise AssertionError("unreachable")


class Load:
    """Submits orders from a few threads, so that about `depth` of them are open at any time.

    Parameters:
      allowed: how many orders may have been submitted by now.
    """

    def __init__(
        self,
        clients: Clients,
        ledger: Ledger,
        orders: Sequence[Order],
        *,
        depth: int,
        allowed: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        self.accepted: dict[int, Accepted] = {}
        self._clients = clients
        self._ledger = ledger
        self._submissions = iter(submissions(orders))
        self._count = len(orders)
        self._depth = depth
        self._allowed = allowed
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
        self._cancellers = ThreadPoolExecutor(CANCELLERS, thread_name_prefix="canceller")
        self._futures: list[Future[None]] = [self._pool.submit(self._work) for _ in range(CLIENTS)]

    @property
    def is_done(self) -> bool:
        """Whether every order is accepted, and every change of mind is told."""
        self._raise_errors()
        return all(future.done() for future in list(self._futures))

    def close(self) -> None:
        """Submit nothing more, and finish what is under way."""
        self._stopping.set()
        self._pool.shutdown()
        self._cancellers.shutdown()
        self._raise_errors()

    def abandon(self) -> None:
        """The run has failed: let the threads go as soon as they can."""
        self._stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._cancellers.shutdown(wait=False, cancel_futures=True)

    def open_jobs(self) -> int:
        """Jobs in the ledger that have not ended."""
        return self._ledger.jobs.count(*OPEN)

    def _work(self) -> None:
        while (orders := self._next()) is not None:
            submit = self._clients.submit
            found = self._clients.submit_batch(orders) if orders[0].batch else [submit(order) for order in orders]
            with self._lock:
                self.accepted |= {accepted.order.number: accepted for accepted in found}
            for accepted in found:
                if accepted.order.cancel_after_s is not None:
                    delay_s = accepted.order.cancel_after_s
                    self._futures.append(self._cancellers.submit(self._cancel, accepted, delay_s))

    def _next(self) -> list[Order] | None:
        while not self._stopping.is_set():
            with self._lock:
                if len(self.accepted) == self._count:
                    return None
                if len(self.accepted) < self._allowed() and self.open_jobs() < self._depth:
                    return next(self._submissions, None)
            time.sleep(0.05)
        return None

    def _cancel(self, accepted: Accepted, delay_s: float) -> None:
        self._stopping.wait(delay_s)
        accepted.cancel_answer = self._clients.cancel(accepted)

    def _raise_errors(self) -> None:
        for future in list(self._futures):
            if future.done():
                future.result()
