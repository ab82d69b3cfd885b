from __future__ import annotations

import copy
from typing import Any

import pytest

from workflows.graph import Graph
from workflows.rewrite import clean_prefix, for_job

JOB = "3f2c0a52-2a0b-4d0e-9d5c-0f6a1f0f8a11"


@pytest.mark.parametrize(
    ("prefix", "kept"),
    [
        ("ComfyUI", "ComfyUI"),
        ("tenantB/secret", "secret"),
        ("a/b/c", "c"),
        ("", "ComfyUI"),
        (".", "ComfyUI"),
        ("..", "ComfyUI"),
        ("../..", "ComfyUI"),
        ("dir/", "ComfyUI"),
        ("/etc/passwd", "passwd"),
        ("..\\x", "x"),
        ("C:\\out\\x", "x"),
        ("x\u0000y", "xy"),
        ("x\ny", "xy"),
        ("x\u202egnp", "xgnp"),
        ("\ud800x", "x"),
        ("~/.x", "x"),
        ("a..b", "ab"),
        ("%date:../../x%", "x"),
        ("%date:yyyy-MM-dd%", "dateyyyy-MM-dd"),
        ("%width%x%height%", "%width%x%height%"),
        ("%width%%height%", "%width%%height%"),
        ("%Empty Latent.width%", "Empty Latent.width"),
        ("100%", "100"),
        ("%wi%dth%", "width"),
        ("%2e%2e%2fx", "2e2e2fx"),
        ("x" * 300, "x" * 100),
        ("x" * 97 + "%width%", "x" * 97),
        ("画" * 100, "画" * 66),
        ("my picture.final", "my picture.final"),
        ("$(id)`id`|x", "(id)idx"),
        ({"__value__": "sub/cat"}, "cat"),
        ({}, "ComfyUI"),
        (["4", 0], "ComfyUI"),
        (5, "ComfyUI"),
        (None, "ComfyUI"),
    ],
)
def test_clean_prefix(prefix: Any, kept: str) -> None:
    assert clean_prefix(prefix) == kept


def graph() -> Graph:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "color": [1]}, "_meta": {"title": "a"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x/cat"}},
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["9", 0], "filename_prefix": ["1", 0]}},
        "4": {"class_type": "SaveMore", "inputs": {"format.filename_prefix": "../dog", "prefix": "../kept"}},
    }


def test_every_prefix_goes_below_the_job() -> None:
    rewritten = for_job(graph(), job_id=JOB)
    assert rewritten["2"]["inputs"]["filename_prefix"] == f"{JOB}/cat"
    assert rewritten["3"]["inputs"]["filename_prefix"] == f"{JOB}/ComfyUI"
    assert rewritten["4"]["inputs"] == {"format.filename_prefix": f"{JOB}/dog", "prefix": "../kept"}
    assert rewritten["1"] == graph()["1"]


def test_the_graph_given_is_not_changed() -> None:
    given = graph()
    before = copy.deepcopy(given)
    rewritten = for_job(given, job_id=JOB)
    rewritten["1"]["inputs"]["width"] = 1
    rewritten["1"]["extra"] = 1
    assert given == before


def test_rewriting_twice_changes_nothing_more() -> None:
    once = for_job(graph(), job_id=JOB)
    assert for_job(once, job_id=JOB) == once


@pytest.mark.parametrize("job_id", ["", ".", "..", "a/b", "a\\b", "%width%", "a b", "x" * 129, "a\n"])
def test_a_job_id_that_is_no_folder_name_is_a_bug(job_id: str) -> None:
    with pytest.raises(ValueError, match="folder name"):
        for_job(graph(), job_id=job_id)
