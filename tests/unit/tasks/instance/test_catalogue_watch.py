"""Which classes are asked whether the files of an instance have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.instance.catalogue_watch import MAX_WITNESSES, witnesses
from tests.field_graphs import simulated_catalogue
from tests.unit.catalogue_literals import node

MANY = [f"{n}.safetensors" for n in range(10)]


def test_one_class_shows_a_list_that_many_have() -> None:
    catalogue = {name: node({"lora": [MANY, {}], "steps": ["INT", {}]}, []) for name in ("B", "A", "C")}
    assert list(witnesses(catalogue)) == ["A"]


def test_short_and_empty_lists_are_equal_by_chance() -> None:
    catalogue = {
        "A": node({"vae": [[], {}]}, []),
        "B": node({"lora": ["COMBO", {"options": []}]}, []),
        "C": node({"file": [["one.png"], {}]}, []),
        "D": node({"file": [["one.png"], {}]}, []),
    }
    assert list(witnesses(catalogue)) == ["A", "B", "C", "D"]


def test_what_lists_no_files_is_not_asked() -> None:
    catalogue: dict[str, Any] = {
        "A": node({"sampler": [["euler", "dpmpp_2m"], {}], "scale": [[1.5, 2.0], {}], "text": ["STRING", {}]}, []),
        "B": node({"any": ["*"], "odd": [], "more": "STRING"}, []),
        "C": {},
        "D": {"input": None},
    }
    assert witnesses(catalogue) == {}


def test_comfyuis_own_classes_are_asked_first_and_not_too_many() -> None:
    packs = {f"A{n:03}": node({"m": [[f"{n}.pt"], {}]}, [], module="custom_nodes.pack") for n in range(100)}
    own = {f"Z{n:03}": node({"m": [[f"{n}.pt"], {}]}, []) for n in range(10)}
    found = list(witnesses(packs | own))
    assert found[:10] == list(own)
    assert len(found) == MAX_WITNESSES


def test_another_file_is_another_hash(tmp_path: Path) -> None:
    before = simulated_catalogue(tmp_path)
    after = simulated_catalogue(tmp_path)
    assert witnesses(before) == witnesses(after)
    assert {"UNETLoader", "LoadImage", "LoraLoader"} & set(witnesses(before))
    after["LoadImage"]["input"]["required"]["image"][0].append("new.png")
    assert witnesses(before) != witnesses(after)
