"""What a worker lets in: messages as we publish them, and nothing else."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from kombu import Message

from tasks.messaging.inbound import MAX_BODY_BYTES, TASKS_OF, Refused, admit, admit_command
from tasks.messaging.names import CHECK_UPLOAD, GENERATE, NOTIFY, RECONCILE, UPLOAD

JOB = "0b7e2f9c-0000-4000-8000-000000000000"
NOTHING: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
STEP: dict[str, Any] = {"task": NOTIFY, "args": [], "kwargs": {}, "options": {"queue": "io"}}
ALL = frozenset({GENERATE, UPLOAD, NOTIFY, CHECK_UPLOAD, RECONCILE})


def message(task: Any = GENERATE, args: Any = (JOB,), *, body: bytes | None = None, **changes: Any) -> Message:
    """A message as we publish it, but for the changes: headers, or `kwargs` and `embedded` of the body."""
    kwargs, embedded = changes.pop("kwargs", {}), {**NOTHING, **changes.pop("embedded", {})}
    content = json.dumps([list(args) if isinstance(args, tuple) else args, kwargs, embedded]).encode()
    headers = {"task": task, "id": JOB, "lang": "py", "root_id": JOB, "parent_id": None, "retries": 3, "group": "g"}
    return Message(
        body=cast(str, content if body is None else body),
        content_type="application/json",
        content_encoding="utf-8",
        headers={**headers, **changes},
        properties={"delivery_tag": "t", "reply_to": "somebody", "priority": 5},
        delivery_tag="t",
    )


def let_in(found: Message) -> Message:
    admit(found, ALL.__contains__)
    return found


def refuse(found: Message) -> None:
    """See a message refused, in words that hold nothing of its body."""
    with pytest.raises(Refused) as caught:
        admit(found, ALL.__contains__)
    assert JOB not in str(caught.value)


class TestOurs:
    def test_only_what_was_checked_stays(self) -> None:
        found = let_in(message(surprise="x"))
        assert found.headers == {
            "lang": "py",
            "root_id": JOB,
            "task": GENERATE,
            "id": JOB,
            "expires": None,
            "eta": None,
            "retries": 0,
            "group": None,
            "argsrepr": f"a turn, published for {JOB}",
            "kwargsrepr": "{}",
        }
        assert found.properties == {
            "body_encoding": None,
            "delivery_info": None,
            "delivery_mode": None,
            "delivery_tag": "t",
        }

    def test_each_task_with_its_arguments(self) -> None:
        assert let_in(message(NOTIFY)).headers["argsrepr"] == f"('{JOB}',)"
        let_in(message(UPLOAD, [[JOB, 1]]))
        let_in(message(UPLOAD, [[JOB, 2**31 - 1, "later releases may say more"]]))
        let_in(message(RECONCILE, []))
        let_in(message(CHECK_UPLOAD))

    def test_a_chain_of_ours_follows(self) -> None:
        let_in(message(embedded={"chain": [STEP, {**STEP, "options": {}, "immutable": True, "subtask_type": None}]}))
        let_in(message(embedded={"chain": []}))

    def test_a_time_of_expiry(self) -> None:
        assert let_in(message(expires="2030-01-01T00:00:00+00:00")).headers["expires"] == "2030-01-01T00:00:00+00:00"

    def test_each_kind_of_worker_does_its_own(self) -> None:
        assert {"gpu": {GENERATE}, "io": {UPLOAD, NOTIFY, CHECK_UPLOAD, RECONCILE}} == TASKS_OF

    def test_as_long_as_may_be(self) -> None:
        body = json.dumps([[JOB], {}, NOTHING]).encode()
        let_in(message(body=body + b" " * (MAX_BODY_BYTES - len(body))))
        refuse(message(body=body + b" " * (MAX_BODY_BYTES - len(body) + 1)))
        assert MAX_BODY_BYTES == 65_536


@pytest.mark.parametrize(
    "found",
    [
        message(None),
        message(5),
        message("celery.backend_cleanup"),
        message(id=None),
        message(id=""),
        message(id="a b"),
        message(id="x" * 256),
        message(eta="2030-01-01T00:00:00"),
        message(eta=0),
        message(expires=17),
        message(expires="never"),
        message(body=b""),
        message(body=b"5"),
        message(body=b"no JSON"),
        message(kwargs={"a": 1}),
        message(args={"a": 1}),
        message(args=[]),
        message(args=[JOB, JOB]),
        message(args=["\0"]),
        message(args=[5]),
        message(NOTIFY, []),
        message(UPLOAD, [JOB]),
        message(UPLOAD, [[JOB, 1], 1]),
        message(UPLOAD, []),
        message(UPLOAD, [[JOB]]),
        message(UPLOAD, [[JOB, 0]]),
        message(UPLOAD, [[JOB, True]]),
        message(UPLOAD, [[JOB, 2**31]]),
        message(UPLOAD, [[JOB, "1"]]),
        message(UPLOAD, [[5, 1]]),
        message(RECONCILE, [1]),
        message(embedded={"chain": {"a": 1}}),
        message(embedded={"chain": [5]}),
        message(embedded={"chain": [STEP, {}]}),
        message(embedded={"chain": [{**STEP, "task": 5}]}),
        message(embedded={"chain": [{**STEP, "args": 5}]}),
        message(embedded={"chain": [{**STEP, "kwargs": {"a": 1}}]}),
        message(embedded={"chain": [{**STEP, "options": 5}]}),
        message(embedded={"chain": [{**STEP, "options": {"queue": 5}}]}),
        message(embedded={"chain": [{**STEP, "options": {"countdown": "io"}}]}),
        message(embedded={"chain": [{**STEP, "subtask_type": "chord"}]}),
        message(embedded={"callbacks": [STEP]}),
        message(embedded={"errbacks": [STEP]}),
        message(embedded={"chord": STEP}),
    ],
)
def test_what_is_not_ours_is_refused(found: Message) -> None:
    refuse(found)


def test_longest_id() -> None:
    assert let_in(message(id="x" * 255)).headers["id"] == "x" * 255


def test_embedded_is_a_table() -> None:
    refuse(message(body=json.dumps([[JOB], {}, []]).encode()))


class TestCommands:
    def admit(self, body: Any, headers: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        found = Message(body="", headers=headers)
        return admit_command(body, found, {"ping"}), cast(dict[str, Any], found.headers)

    def test_what_it_says_is_kept(self) -> None:
        said = {
            "method": "ping",
            "arguments": {"a": 1},
            "destination": ["w"],
            "pattern": "p",
            "matcher": "glob",
            "reply_to": {"exchange": "e", "routing_key": "k"},
            "ticket": "t",
        }
        found, headers = self.admit({**said, "surprise": 1}, {"clock": 7, "surprise": 1})
        assert found == said
        assert headers == {"clock": 7}

    @pytest.mark.parametrize(
        ("clock", "kept"), [(0, 0), (-1, 0), (2**53 - 1, 2**53 - 1), (2**53, 0), ("7", 0), (True, 0), (None, 0)]
    )
    def test_a_clock_that_can_be_sent_on(self, clock: Any, kept: int) -> None:
        assert self.admit({"method": "ping"}, {"clock": clock})[1] == {"clock": kept}

    @pytest.mark.parametrize(
        "body",
        [
            None,
            [],
            {},
            {"method": 5},
            {"method": "shutdown"},
            {"method": "ping", "arguments": []},
            {"method": "ping", "destination": "w"},
            {"method": "ping", "pattern": 1},
            {"method": "ping", "matcher": 1},
            {"method": "ping", "ticket": 1},
            {"method": "ping", "reply_to": "x"},
            {"method": "ping", "reply_to": {"exchange": "e"}},
            {"method": "ping", "reply_to": {"exchange": 1, "routing_key": "k"}},
            {"method": "ping", "reply_to": {"exchange": "e", "routing_key": 1}},
        ],
    )
    def test_what_is_none_is_refused(self, body: Any) -> None:
        with pytest.raises(Refused):
            self.admit(body)

    def test_an_answer_need_not_be_wanted(self) -> None:
        assert self.admit({"method": "ping", "ticket": None})[0] == {"method": "ping"}
