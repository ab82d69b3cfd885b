"""The classes of all instances together."""

from __future__ import annotations

from typing import Any

from api.contracts.comfyui.node_lists import OfferedNodes, in_order, merged, present, replacements


def loader(*files: str, **more: Any) -> dict[str, Any]:
    return {"input": {"required": {"ckpt_name": [list(files), {"tooltip": "t"}]}, "hidden": None}, **more}


def new_loader(*files: str) -> dict[str, Any]:
    return {"input": {"optional": {"lora_name": ["COMBO", {"options": list(files), "x": 1}]}}}


def test_each_class_is_there_once_with_the_options_of_all() -> None:
    one = {"CheckpointLoaderSimple": loader("a", "b"), "LoraLoader": new_loader("l"), "OnlyOne": {"input": {}}}
    other = {"CheckpointLoaderSimple": loader("b", "c"), "LoraLoader": new_loader("m", "l"), "OnlyOther": {}}
    found = merged([one, other])
    assert list(found) == ["CheckpointLoaderSimple", "LoraLoader", "OnlyOne", "OnlyOther"]
    assert found["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] == [["a", "b", "c"], {"tooltip": "t"}]
    assert found["LoraLoader"]["input"]["optional"]["lora_name"] == ["COMBO", {"options": ["l", "m"], "x": 1}]
    # What was given stays as it was: the catalogues are kept.
    assert one["CheckpointLoaderSimple"] == loader("a", "b")


def test_of_classes_that_differ_otherwise_the_first_counts() -> None:
    odd = {"CheckpointLoaderSimple": "odd", "LoraLoader": {"input": {"optional": {"lora_name": ["STRING"]}}}}
    one = {"CheckpointLoaderSimple": loader("a"), "LoraLoader": new_loader("l")}
    assert merged([one, odd]) == one
    assert merged([odd, one])["CheckpointLoaderSimple"] == "odd"
    assert merged([]) == {}


def test_models_are_what_loaders_list() -> None:
    classes = merged([{"CheckpointLoaderSimple": loader("a"), "LoraLoader": new_loader("l", "m")}])
    offered = OfferedNodes(digests=("d",), classes=classes, text="", replacements={})
    assert offered.model_files("checkpoints") == ["a"]
    assert offered.model_files("loras") == ["l", "m"]
    assert offered.model_files("vae") == []
    assert offered.model_files("nope") is None
    assert offered.class_text("Nope") == "{}"


def test_inputs_stand_in_their_order() -> None:
    declared = {"b": ["INT"], "a": ["INT"], "new": ["INT"]}
    info = {"input": {"required": declared, "hidden": None}, "input_order": {"required": ["a", "gone", "b"]}}
    found = in_order({"X": info, "Odd": "odd", "None": {"input": {"required": {}}}})
    assert list(found["X"]["input"]["required"]) == ["a", "b", "new"]
    assert found["Odd"] == "odd"


def test_classes_that_are_gone_are_no_classes_but_what_stands_for_them_is_told() -> None:
    told = [{"new_node_id": "New", "old_node_id": "Old"}]
    gone = {"input": {}, "replaced_by": "New", "replacements": told}
    one = {"New": {"input": {}}, "Old": gone, "Untold": {"input": {}, "replaced_by": "New"}, "Odd": "odd"}
    other: dict[str, Any] = {"Old": {"input": {"required": {}}}}
    assert list(present(one)) == ["New", "Odd"]
    assert replacements([one], present(one)) == {"Old": told}
    # One instance has it still.
    assert replacements([one, other], merged([present(one), present(other)])) == {}
