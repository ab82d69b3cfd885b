from __future__ import annotations

import copy
from typing import Any

import pytest

from workflows.graphs.graph import Graph
from workflows.graphs.rewrite import RUN_INPUT, clean_prefix, folders_of, for_job, names_own_files

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


def shown() -> Graph:
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "3": {"class_type": "Glance", "inputs": {"image": ["1", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def told(graph: Graph) -> dict[str, Any]:
    return {node_id: node["inputs"][RUN_INPUT] for node_id, node in graph.items() if RUN_INPUT in node["inputs"]}


def test_only_last_nodes_without_a_prefix_are_told_the_run() -> None:
    assert told(for_job(shown(), job_id=JOB, run_id="r1")) == {"2": "r1"}
    assert told(for_job(shown(), job_id=JOB)) == {}


def test_a_node_in_the_middle_is_told_the_run_when_it_has_to_run_anew() -> None:
    assert told(for_job(shown(), job_id=JOB, run_id="r1", run_anew={"3"})) == {"2": "r1", "3": "r1"}


def test_a_graph_taken_from_an_earlier_picture_is_told_its_own_run() -> None:
    earlier = for_job(shown(), job_id=JOB, run_id="r1")
    assert told(for_job(earlier, job_id=JOB, run_id="r2")) == {"2": "r2"}


def test_a_last_node_without_a_prefix_may_write_over_what_another_job_left() -> None:
    assert not names_own_files(shown())
    saver = {"class_type": "Image Saver", "inputs": {"images": ["1", 0], "filename": "fixed"}}
    assert names_own_files({**shown(), "5": saver})


@pytest.mark.parametrize(
    ("folder", "kept"),
    [
        ("ds", "/ds"),
        ("a/b", "/a/b"),
        ("../../x", "/x"),
        ("/etc/cron.d", "/etc/cron.d"),
        ("C:\\x\\..\\y", "/C/x/y"),
        ("~/x", "/x"),
        ("", ""),
        ("..", ""),
        (".", ""),
        (f"{JOB}/ds", "/ds"),
        (["1", 0], ""),
        ({"__value__": "w/v"}, "/w/v"),
    ],
)
def test_a_folder_beside_a_prefix_goes_below_the_job_and_the_prefix_stays_a_name(folder: Any, kept: str) -> None:
    inputs = {"images": ["1", 0], "folder_name": folder, "filename_prefix": "../a/image"}
    graph = {"1": {"class_type": "X", "inputs": {}}, "2": {"class_type": "SaveImageDataSetToFolder", "inputs": inputs}}
    rewritten = for_job(graph, job_id=JOB, run_id="r")
    assert rewritten["2"]["inputs"] == {
        "images": ["1", 0],
        "folder_name": f"{JOB}{kept}",
        "filename_prefix": "image",
    }
    assert folders_of(rewritten, job_id=JOB) == {"2": f"{JOB}{kept}"}


def test_a_folder_without_a_prefix_is_somebody_elses() -> None:
    loader = {"1": {"class_type": "LoadImageDataSetFromFolder", "inputs": {"folder": "cats"}}}
    assert for_job(loader, job_id=JOB) == loader
    assert folders_of(loader, job_id=JOB) == {}


@pytest.mark.parametrize("folder", ["output", "elsewhere", "/srv/www", "../../x", ["1", 0]])
def test_a_class_that_makes_a_path_of_its_prefix_gets_its_folder_as_it_is_by_default(folder: Any) -> None:
    """KJNodes' savers take every other folder for a place of the machine, or leave it alone."""
    inputs = {"images": ["1", 0], "filename_prefix": "a/cat", "output_folder": folder}
    graph = {"1": {"class_type": "X", "inputs": {}}, "2": {"class_type": "SaveImageKJ", "inputs": inputs}}
    rewritten = for_job(graph, job_id=JOB, run_id="r")
    assert rewritten["2"]["inputs"] == {
        "images": ["1", 0],
        "filename_prefix": f"{JOB}/cat",
        "output_folder": "output",
    }
    assert folders_of(rewritten, job_id=JOB) == {"2": JOB}


def test_what_comfyui_noted_of_an_earlier_run_is_left_out() -> None:
    """It believes the hash of a file that stands beside the inputs, and would not look at the file again.

    Current versions also note which nodes a loop has.
    """
    notes = {"is_changed": ["0a1b"], "_loop_body": ["2"], "_loop_end": "3"}
    noted = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, **notes, "_meta": {}}}
    assert for_job(noted, job_id=JOB)["1"] == {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {}}
