"""The error of a job as its client sees it."""

from __future__ import annotations

from core.errors import ComfyUnavailable, PromptFailed, PromptRejected
from tasks.job_errors import job_error


class TestErrors:
    def test_a_node_error_tells_where_it_happened(self) -> None:
        error = job_error(PromptFailed("boom", "7", "KSampler", "RuntimeError", "Traceback ..."))
        assert error.to_json() == {
            "code": "node_execution_error",
            "message": "boom",
            "node_id": "7",
            "class_type": "KSampler",
            "traceback": "Traceback ...",
        }

    def test_a_refusal_names_the_first_node(self) -> None:
        error = job_error(PromptRejected("refused", {"3": {"class_type": "LoadImage", "errors": []}}))
        assert (error.code, error.node_id, error.class_type) == ("invalid_workflow", "3", "LoadImage")

    def test_others_have_no_node(self) -> None:
        assert job_error(ComfyUnavailable("gone")).node_id is None
