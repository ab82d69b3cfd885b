"""Keys of objects: what templates may say, and prefixes that stay where they belong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.object_keys import DEFAULT_TEMPLATE, KeyFields, check_template, is_safe_prefix, object_key

FIELDS = KeyFields(
    prefix="x/y", job_id="job", request_id="order-7", filename="a.png", node_id="9", ordinal=2, date="2026-11-22"
)


@pytest.mark.parametrize(
    ("template", "key"),
    [
        (DEFAULT_TEMPLATE, "x/y/job/a.png"),
        ("{date}/{request_id}-{ordinal}-{filename}", "2026-11-22/order-7-2-a.png"),
        ("by-node/{node_id}/{ordinal}", "by-node/9/2"),
        ("{{{filename}}}", "{a.png}"),
    ],
)
def test_keys(template: str, key: str) -> None:
    check_template(template, FIELDS.prefix)

    assert object_key(template, FIELDS) == key


def test_what_is_empty_leaves_no_folder() -> None:
    assert object_key("{prefix}/a/{prefix}/{filename}", replace(FIELDS, prefix="")) == "a/a.png"


@pytest.mark.parametrize("node_id", ["../..", "a/b", "%2e%2e", "é\x00"])
def test_a_node_id_is_no_path(node_id: str) -> None:
    assert is_safe_prefix(object_key("n/{node_id}/{filename}", replace(FIELDS, node_id=node_id)))


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{prefix}/{job_id}", "overwrite each other"),
        ("{filename}/{name}", "no other fields than {prefix}, {job_id}"),
        ("{filename.__class__}", "no other fields"),
        ("{0}{filename}", "no other fields"),
        ("{filename!r}", "no other fields"),
        ("{ordinal:099999999}", "no other fields"),
        ("{filename", "braces"),
        ("a}{filename}", "braces"),
        ("../{filename}", "relative paths"),
        ("%2e%2e/{filename}", "relative paths"),
        ("~/{filename}", "relative paths"),
        ("a\\b/{filename}", "relative paths"),
        ("{filename}" + "x" * 512, "at most 512 bytes"),
    ],
)
def test_templates_whose_keys_could_not_be_used(template: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_template(template)


@pytest.mark.parametrize("prefix", ["", "a", "a/b", "a/b/", "a b", "100%", "Zürich/日本", "a..b", ".hidden", "x" * 512])
def test_prefixes_that_name_a_folder(prefix: str) -> None:
    assert is_safe_prefix(prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        "..",
        "a/../b",
        "a/./b",
        "/a",
        "~/a",
        "a//b",
        "a\\..\\b",
        "%2e%2e/a",
        "a/%2E./b",
        "a%2f..%2fb",
        "%252e%252e%252f",
        "%25252e%25252e/",
        "%2fetc",
        "%5c..",
        "a%00",
        "%c0%ae%c0%ae/a",
        "%u002e%u002e/a",
        "\uff0e\uff0e/a",
        "\u2024\u2024/a",
        "a\x00b",
        "a\nb",
        "a\u2028b",
        "\ud800",
        "x" * 513,
        "ü" * 257,
    ],
)
def test_prefixes_that_could_be_read_as_another_folder(prefix: str) -> None:
    assert not is_safe_prefix(prefix)
