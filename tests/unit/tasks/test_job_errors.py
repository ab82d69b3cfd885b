"""The error of a job as its client sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ComfyUnavailable, PromptFailed, PromptRejected
from core.texts.excerpts import MESSAGE_CHARS, TRACEBACK_CHARS
from tasks.job_errors import discreet, job_error, machines_of, reason_of, shortened, whole_error
from tests.services import make_settings


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

    def test_a_loss_is_said_in_one_text(self) -> None:
        said = reason_of(PromptFailed("boom", "7", "KSampler", "RuntimeError", "Traceback ..."))
        assert said.startswith("boom")
        assert "7" in said


class TestWhole:
    @pytest.mark.parametrize(
        ("message_chars", "traceback_chars", "is_cut"),
        [
            (MESSAGE_CHARS, TRACEBACK_CHARS, False),
            (MESSAGE_CHARS + 1, 0, True),
            (0, TRACEBACK_CHARS + 1, True),
            (MESSAGE_CHARS + 1, TRACEBACK_CHARS + 1, True),
        ],
    )
    def test_what_is_cut_is_kept_beside(self, message_chars: int, traceback_chars: int, is_cut: bool) -> None:
        failed = PromptFailed("m" * message_chars, "7", "KSampler", "RuntimeError", "t" * traceback_chars)
        whole = whole_error(failed)
        assert (whole is not None) is is_cut
        if whole is not None:
            assert (len(whole.message), len(whole.traceback or "")) == (message_chars, traceback_chars)
            assert job_error(failed) != whole

    def test_where_it_is_to_be_had_is_said_where_it_is_kept(self) -> None:
        long = ComfyUnavailable("x" * (2 * MESSAGE_CHARS))
        assert "GET /api/v2/jobs/j1/error" in job_error(long, job_id="j1").message
        assert "GET" not in job_error(long).message

    def test_a_log_line_bears_less(self) -> None:
        long, short = ComfyUnavailable("x" * (2 * MESSAGE_CHARS)), ComfyUnavailable("x")
        long.__cause__ = ValueError("why")
        cut = shortened(long)
        assert (type(cut), cut.__cause__) == (ComfyUnavailable, long.__cause__)
        assert len(cut.message) < len(long.message)
        assert shortened(short) is short


class TestDiscretion:
    def test_the_names_of_machines_are_known_the_longest_first(self, tmp_path: Path) -> None:
        urls = ("http://gpu-host-17.example.org:8188", "http://10.1.2.3:8188")
        settings = make_settings(tmp_path, host="gpu-host-17", comfyui_urls=urls)
        assert machines_of(settings) == ["gpu-host-17.example.org", "gpu-host-17", "10.1.2.3"]

    def test_a_secret_goes_before_anything_is_cut(self) -> None:
        told = discreet(ComfyUnavailable("key abcdef \ud83d"), secret="abcdef", machines=())
        assert told.message == "key [secret] ?"
