"""The messages that a client is sent of a prompt, from a ledger and from notices."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from api.contracts.comfyui.messages import Frame
from api.contracts.comfyui.prompt_story import PromptStory
from api.contracts.comfyui.stored_results import StoredResults
from api.service.waiting import Watch
from core.ledger import Ledger
from core.messaging.notices import Notice
from core.records.progress import Progress
from core.settings import Settings
from tests.ledger_moves import claimed, submit


class Told:
    """A story, and the notices that reach it."""

    def __init__(self, ledger: Ledger, job_id: str, *, from_start: bool = True) -> None:
        self.watch = Watch(job_id, live=True, only_end=False)
        self._ledger, self._job_id = ledger, job_id
        job = ledger.jobs.get(job_id)
        results = StoredResults(Settings(data_dir=Path("nowhere")), ledger)
        self.story = PromptStory(job, self.watch, ledger, results, from_start=from_start)

    def notice(self, kind: str, data: dict[str, Any]) -> None:
        self.watch.tell(Notice(job_id=self._job_id, kind=kind, data=data))

    def progress(self, node: str, step: int | None = None, steps: int | None = None) -> None:
        self.notice("progress", Progress(current_node=node, step=step, steps=steps).to_json())

    def news(self, *, has_metadata: bool = False) -> list[Frame]:
        seq = self._ledger.jobs.get(self._job_id).last_seq
        self.watch.tell(Notice(job_id=self._job_id, kind="status", seq=seq))
        return list(self.story.news(has_metadata=has_metadata))

    def kinds(self) -> list[str]:
        return [json.loads(frame)["type"] for frame in self.news()]


def test_nothing_is_told_of_a_prompt_that_waits_or_never_ran(ledger: Ledger) -> None:
    job = submit(ledger)
    told = Told(ledger, job.id)
    told.progress("1")
    assert told.kinds() == []
    ledger.jobs.cancel(job.id)
    assert (told.kinds(), told.story.is_over) == ([], True)


def test_progress_is_told_node_by_node(ledger: Ledger) -> None:
    told = Told(ledger, claimed(ledger).job_id)
    told.progress("1", 1, 4)
    messages = [json.loads(frame) for frame in told.news()]
    assert [each["type"] for each in messages] == [
        *("execution_start", "execution_cached", "executing", "progress_state", "progress")
    ]
    assert (messages[2]["data"]["node"], messages[4]["data"]["value"], messages[4]["data"]["max"]) == ("1", 1, 4)
    told.progress("1", 2, 4)
    assert told.kinds() == ["progress_state", "progress"]
    told.progress("2")
    executing, state = (json.loads(frame) for frame in told.news())
    assert executing["data"]["node"] == "2"
    nodes = state["data"]["nodes"]
    assert (nodes["1"]["state"], nodes["1"]["value"], nodes["2"]["state"]) == ("finished", 4.0, "running")


def test_after_a_lost_attempt_it_begins_anew(ledger: Ledger) -> None:
    claim = claimed(ledger)
    told = Told(ledger, claim.job_id)
    assert told.kinds() == ["execution_start"]
    ledger.requeue.release(claim, reason="lost", lost=True, code="stuck")
    assert told.kinds() == []
    assert ledger.claims.claim("gpu1@here", named=claim.job_id) is not None
    assert told.kinds() == ["execution_start"]


def test_who_comes_back_is_told_where_it_is(ledger: Ledger) -> None:
    claim = claimed(ledger)
    ledger.claims.progress(claim, Progress(current_node="1", step=3, steps=9))
    told = Told(ledger, claim.job_id, from_start=False)
    assert [json.loads(frame)["type"] for frame in told.story.so_far()] == ["executing", "progress_state", "progress"]
    assert told.kinds() == []


@pytest.mark.parametrize("has_metadata", [False, True])
def test_a_preview_is_a_binary_frame(ledger: Ledger, has_metadata: bool) -> None:
    job_id = claimed(ledger).job_id
    told = Told(ledger, job_id)
    told.news()
    picture = {"node_id": "1", "content_type": "image/png", "data_base64": base64.b64encode(b"picture").decode()}
    told.notice("preview", picture)
    [frame] = told.news(has_metadata=has_metadata)
    assert isinstance(frame, bytes)
    kind, second = struct.unpack(">II", frame[:8])
    if not has_metadata:
        assert (kind, second, frame[8:]) == (1, 2, b"picture")
        return
    assert (kind, frame[8 + second :]) == (4, b"picture")
    metadata = json.loads(frame[8 : 8 + second])
    assert (metadata["node_id"], metadata["prompt_id"], metadata["image_type"]) == ("1", job_id, "image/png")


def test_a_preview_that_is_none_is_left_out(ledger: Ledger) -> None:
    told = Told(ledger, claimed(ledger).job_id)
    told.news()
    told.notice("preview", {"node_id": "1", "data_base64": "not base64"})
    assert told.news() == []


def test_a_job_that_was_removed_is_over(ledger: Ledger) -> None:
    told = Told(ledger, claimed(ledger).job_id)
    told.watch.tell_gone()
    assert (list(told.story.news(has_metadata=False)), told.story.is_over) == ([], True)


def test_what_the_cache_spares_is_told_once_and_before_any_node(ledger: Ledger) -> None:
    told = Told(ledger, claimed(ledger).job_id)
    told.notice("cached", {"nodes": ["1"]})
    told.notice("cached", {"nodes": ["2"]})
    told.progress("2")
    messages = [json.loads(frame) for frame in told.news()]
    assert [each["type"] for each in messages] == [
        *("execution_start", "execution_cached", "executing", "progress_state")
    ]
    assert messages[1]["data"]["nodes"] == ["1"]


def test_what_a_node_has_made_is_told_while_the_others_run(ledger: Ledger) -> None:
    claim = claimed(ledger)
    told = Told(ledger, claim.job_id)
    told.news()
    facts = {"node_id": "2", "content_type": "image/png", "folder": "output", "comfy_key": "images"}
    picture = {**facts, "name": "a.png", "kind": "image", "storage_key": f"{claim.job_id}/a.png"}
    text = {**facts, "comfy_key": "text", "content_type": "text/plain", "name": "t.txt", "kind": "text", "text": "said"}
    told.notice("executed", {"node": "2", "outputs": [picture, text, {"of": "another version"}]})
    messages = [json.loads(frame) for frame in told.news()]
    assert [each["type"] for each in messages] == ["execution_cached", "executing", "executed"]
    item = {"filename": "a.png", "subfolder": claim.job_id, "type": "output"}
    assert messages[-1]["data"] == {
        "node": "2",
        "display_node": "2",
        "prompt_id": claim.job_id,
        "output": {"images": [item], "text": ["said"]},
    }
    told.notice("executed", {"node": "2", "outputs": [picture, text]})
    assert told.news() == [], "once"


def test_a_picture_that_is_sent_and_not_saved_is_no_preview(ledger: Ledger) -> None:
    told = Told(ledger, claimed(ledger).job_id)
    told.news()
    data = {"node_id": "1", "content_type": "image/png", "data_base64": base64.b64encode(b"x").decode()}
    told.notice("preview", {**data, "is_output": True})
    assert told.news() == []
