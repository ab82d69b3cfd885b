"""Writes as lines: whole, clean, without secrets, and bounded."""

from __future__ import annotations

from core.texts.discretion import forms_of
from tasks.job_errors import discreet_text
from tasks.runner.printing.line_maker import LINE_CHARS, LineMaker


def plain() -> LineMaker:
    return LineMaker(lambda text: text)


def test_writes_become_lines_when_they_end() -> None:
    lines = plain()
    assert lines.take(["got ", "prompt", "\n", "and"]) == ["got prompt"]
    assert lines.take([" more\n\nlast"]) == ["and more"]
    assert lines.rest() == ["last"]
    assert lines.rest() == []


def test_of_a_bar_that_is_drawn_over_itself_the_last_state_stays() -> None:
    lines = plain()
    assert lines.take(["\r 10%|#  |", "\r 50%|## |"]) == []
    assert lines.take(["\r100%|###|\n"]) == ["100%|###|"]
    assert lines.take(["\r" + "x" * 100 for _ in range(1000)]) == []
    assert lines.rest() == ["x" * 100]


def test_orders_to_terminals_are_taken_out() -> None:
    assert plain().take(["\x1b[31mred\x1b[0m \x1b]0;title\x07ok\x00\u2028\ud83d\x9b31m\n"]) == ["red ok    31m"]


def test_a_secret_is_masked_also_where_it_came_in_two_writes_and_would_be_cut() -> None:
    secret = "comfyui-0123456789"
    lines = LineMaker(lambda text: discreet_text(text, secrets=forms_of(secret), machines=["gpu7.internal"]))
    assert lines.take(["key comfyui-01234"]) == []
    assert lines.take(["56789 of gpu7.internal at /opt/models/loras/a.safetensors\n"]) == [
        "key [secret] of [address] at .../a.safetensors"
    ]
    [cut] = lines.take(["x" * (LINE_CHARS - 5) + secret + "\n"])
    assert "comfy" not in cut
    assert len(cut) <= LINE_CHARS + 10


def test_a_secret_does_not_show_where_a_line_is_left_out_of_which_much_was_masked() -> None:
    secret = "comfyui-" + "0123456789" * 5 + "ab"
    lines = LineMaker(lambda text: discreet_text(text, secrets=forms_of(secret), machines=()))
    for _ in range(500):
        # So much of it is masked that what is left of the line would have room for its end.
        assert lines.take([secret[:25]]) == []
        assert lines.take([secret[25:]]) == []
    [line] = lines.take(["the end\n"])
    assert "0123" not in line
    assert line.endswith(" [...]")
    assert lines.take(["x" * 10_000, "\r", "drawn anew\n"]) == ["drawn anew"]
