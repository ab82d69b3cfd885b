"""Texts of others: cut to what rows can bear, and free of the fleet's own addresses and paths."""

from __future__ import annotations

import time

import pytest

from core.errors import ComfyUnavailable, PromptFailed, PromptStuck, PromptTimeout
from core.texts.discretion import forms_of, tells_machines_apart, without_places, without_secrets
from core.texts.excerpts import MESSAGE_CHARS, TRACEBACK_CHARS, WHOLE_CHARS, head_and_tail
from tasks.job_errors import discreet, job_error, reason_of, shortened, whole_error


def test_a_text_within_its_limit_stays() -> None:
    assert head_and_tail("boom", 4) == "boom"


def test_of_a_long_text_both_ends_stay() -> None:
    assert head_and_tail("begin" + 90 * "-" + "end", 8, hint="; ask") == (
        "begi\n[... 90 characters left out; ask ...]\n-end"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://127.0.0.1:8188/prompt.", "at [address]/prompt."),
        ("at https://localhost/x/y and ws://[::1]:80", "at [address]/x/y and [address]"),
        ("HTTPConnectionPool(host='10.1.2.3', port=8188)", "HTTPConnectionPool(host='[address]', port=8188)"),
        ("192.168.0.7:9000 172.20.1.1 169.254.1.1 0.0.0.0", "[address] [address] [address] [address]"),
        ("172.15.1.1 and 8.8.8.8 and 1.127.0.0.1", "172.15.1.1 and 8.8.8.8 and 1.127.0.0.1"),
        ("on gpu-box-3:8188, http://gpu-box-3/view", "on [address], [address]/view"),
        ("not gpu-box-30 nor a.gpu-box-3x", "not gpu-box-30 nor a.gpu-box-3x"),
        ("No such file or directory: '/data/in put/a b.png'", "No such file or directory: '.../a b.png'"),
        ('File "/opt/ComfyUI/custom_nodes/x/nodes.py", line 3', 'File ".../custom_nodes/x/nodes.py", line 3'),
        ("/v/lib/python3.11/site-packages/torch/cuda.py:5", ".../site-packages/torch/cuda.py:5"),
        ("open(/data/gpus/gpu0/input/x.png)", "open(.../x.png)"),
        ("path:/home/me/x file:///home/me/y", "path:.../x .../y"),
        ("C:\\ComfyUI\\models\\x.pt and 'D:\\my models\\y.pt'", ".../x.pt and '.../y.pt'"),
        (
            "see https://example.com/a/b/c and //cdn.example.com/x/y",
            "see https://example.com/a/b/c and //cdn.example.com/x/y",
        ),
        ("1/2 of image/png at /prompt", "1/2 of image/png at /prompt"),
        ("expected 'a/b/c' got '/'", "expected 'a/b/c' got '/'"),
    ],
)
def test_places_are_left_out(text: str, expected: str) -> None:
    assert without_places(text, ["gpu-box-3"]) == expected


@pytest.mark.parametrize(
    "text", [200_000 * "'/", 100_000 * "/a/", 100_000 * "C:\\a", 100_000 * "10.0.0.", 500_000 * "/"]
)
def test_places_are_looked_for_in_linear_time(text: str) -> None:
    began_s = time.process_time()
    without_places(text, ["gpu-box-3"])
    assert time.process_time() - began_s < 5


def test_names_of_machines_that_may_be_words_are_no_names() -> None:
    assert [name for name in ("here", "gpu1", "a-b", "x.example.com") if tells_machines_apart(name)] == [
        "gpu1",
        "a-b",
        "x.example.com",
    ]


def failed(size: int) -> PromptFailed:
    return PromptFailed("m" * size, "7", "KSampler", "RuntimeError", "t" * size)


def test_an_error_is_cut_and_says_where_the_rest_is() -> None:
    error = job_error(failed(50_000), job_id="some-job")
    assert MESSAGE_CHARS < len(error.message) < MESSAGE_CHARS + 200
    assert TRACEBACK_CHARS < len(error.traceback or "") < TRACEBACK_CHARS + 200
    assert f"{50_000 - MESSAGE_CHARS} characters left out; GET /api/v2/jobs/some-job/error" in error.message
    assert (error.node_id, error.class_type) == ("7", "KSampler")
    whole = whole_error(failed(50_000))
    assert whole is not None
    assert (len(whole.message), len(whole.traceback or "")) == (50_000, 50_000)


def test_an_error_that_fits_has_no_more() -> None:
    assert whole_error(failed(100)) is None
    assert job_error(failed(100), job_id="some-job").message == "m" * 100


def test_a_secret_is_gone_before_anything_is_cut() -> None:
    # It stands where the text is cut.
    head = WHOLE_CHARS - WHOLE_CHARS // 2
    text = "x" * (head - 3) + "secret" + "y" * WHOLE_CHARS
    exc = discreet(PromptFailed(text, "1", "Node", None, text), secret="secret", machines=())
    assert "sec" not in exc.message.replace("[secret]", "").replace("[sec", "")
    assert "secret" not in (exc.traceback or "").replace("[secret]", "")
    assert len(exc.message) < WHOLE_CHARS + 200


def test_what_is_no_text_stays_as_it_is() -> None:
    exc = discreet(PromptTimeout("at 127.0.0.1", still_runs=True), secret=None, machines=())
    assert (exc.message, exc.still_runs) == ("at [address]", True)
    assert discreet(exc, secret=None, machines=()) is exc
    assert len(shortened(ComfyUnavailable("x" * 10_000)).message) < MESSAGE_CHARS + 200


def test_every_loss_says_at_which_node() -> None:
    assert reason_of(PromptStuck("no work", "7", "KSampler")) == "no work (node 7, KSampler)"
    assert job_error(PromptTimeout("too long", True, "7", "KSampler")).node_id == "7"
    assert reason_of(ComfyUnavailable("gone")) == "gone"


def test_an_error_of_ours_names_no_path_either() -> None:
    error = job_error(ComfyUnavailable("[Errno 28] No space left on device: '/data/outputs/a/b.png'"))
    assert error.message == "[Errno 28] No space left on device: '.../b.png'"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("comfyui-0123\n", "key comfyui-0123 taken"),
        ("a+b/c==", "GET /v1?key=a%2Bb%2Fc%3D%3D&n=1"),
        ("pa ss&", "GET /v1?key=pa+ss%26"),
        ('say "it"', 'sent {"key": "say \\"it\\""}'),
        ("tab\tand\\", "{'key': 'tab\\tand\\\\'}"),
        ("schl\u00fcssel", '{"key": "schl\\u00fcssel"}'),
        ("<key>", "<b>&lt;key&gt;</b>"),
    ],
)
def test_a_secret_is_masked_as_others_quote_it(secret: str, text: str) -> None:
    told = without_secrets(text, forms_of(secret))
    assert "[secret]" in told
    assert secret.strip() not in told
    assert not any(form in told for form in forms_of(secret))
