from __future__ import annotations

import json
import time
from typing import Any

import pytest

from core.errors import InvalidBody
from core.texts import strict_json


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "at most 64 levels"),
        (b'{"seed": ' + b"9" * 4000 + b"}", "4000 characters"),
        (b'{"seed": 18446744073709551617}', "18446744073709551617"),
        (b'{"seed": -18446744073709551617}', "out of range"),
        (b'{"x": 1e999}', "out of range"),
        (b'{"x": -1e999}', "out of range"),
        (b'{"x": NaN}', "NaN"),
        (b'{"x": Infinity}', "Infinity"),
        (b'{"x": -Infinity}', "-Infinity"),
        (b'{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN"),
        (b'{"1": {"class_type": "A", "inputs": {"x": [1, -Infinity]}}}', "-Infinity"),
        (b'{"1": {"class_type": "A", "inputs": {}, "_meta": NaN}}', "NaN"),
        (b'{"1": {"class_type": "A", "is_changed": [NaN]}}', "NaN"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b'{"a": 1, "a": "\\ud800"}', "'a'"),
        (b'\xef\xbb\xbf{"a": 1}', "byte order mark"),
        (b'{"a": "\xff"}', "offset 7"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"", "empty"),
        (b" \n", "empty"),
        (b'{"a": 1', "line 1, column 8"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b"{'a': 1}", "line 1"),
        (b'{"a": 1} // comment', "line 1"),
        (b'{"a": 01}', "line 1"),
        (b'{"a": "x\ny"}', "line 1"),
        (b'{"a": 1, "b": {"key": 1, "key": 2}}', "'key'"),
        # What would make up for the colon of the lost key, and what comes after it.
        (b'{"a": 1, "a": 2, "b": "\\u003a"}', "'a'"),
        (b'{"a": 1, "a": ":::"}', "'a'"),
        (b'{"o": {"a": 1, "a": 2}, "b": 1e999, "c": }', "'a'"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_refuses_and_names_the_problem(body: bytes, says: str) -> None:
    with pytest.raises(InvalidBody) as refused:
        strict_json.loads(body)
    assert says in refused.value.message
    assert len(refused.value.message) < 300
    refused.value.message.encode("utf-8")


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b"null", None),
        (b'{"seed": 18446744073709551616}', {"seed": 2**64}),
        (b'{"seed": -18446744073709551616}', {"seed": -(2**64)}),
        (b'{"seed": 9007199254740993}', {"seed": 2**53 + 1}),
        (b'{"x": 1e308}', {"x": 1e308}),
        (b'{"x": "\\ud83d\\ude00"}', {"x": "\U0001f600"}),
        ('{"x": "日本"}'.encode(), {"x": "日本"}),
        (b'{"__proto__": {"a": 1}, "constructor": 2}', {"__proto__": {"a": 1}, "constructor": 2}),
        (b'{"a": {"k": 1}, "b": {"k": 1}}', {"a": {"k": 1}, "b": {"k": 1}}),
        (b'{"x": "\\\\ud800"}', {"x": "\\ud800"}),
        (b'{"x": "NaN Infinity"}', {"x": "NaN Infinity"}),
        # As ComfyUI writes graphs into its pictures.
        (
            b'{"1": {"class_type": "A", "inputs": {}, "is_changed": [NaN], "other": {"a": [-Infinity]}, "mode": 0}}',
            {"1": {"class_type": "A", "inputs": {}, "mode": 0}},
        ),
    ],
)
def test_accepts_exactly(body: bytes, value: Any) -> None:
    parsed = strict_json.loads(body)
    assert parsed == value
    assert json.dumps(parsed) == json.dumps(value)


def test_depth_limit_is_exact_and_counts_lists_and_objects() -> None:
    assert strict_json.loads(b"[" * 64 + b"]" * 64)
    assert strict_json.loads(b'{"a":[{"b":1}]}', max_depth=3)
    with pytest.raises(InvalidBody, match="at most 2 levels"):
        strict_json.loads(b'{"a":[{"b":1}]}', max_depth=2)


def test_brackets_in_strings_do_not_count() -> None:
    assert strict_json.loads(b'["' + b"[" * 500 + b'"]', max_depth=1) == ["[" * 500]


def test_a_million_digits_cost_nothing() -> None:
    started_s = time.thread_time()
    with pytest.raises(InvalidBody, match="1000000 characters"):
        strict_json.loads(b'{"seed": ' + b"9" * 1_000_000 + b"}")
    assert time.thread_time() - started_s < 1
