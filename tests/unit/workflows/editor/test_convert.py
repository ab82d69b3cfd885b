"""Each thing that documents of the editor have, and what the editor makes of it when it queues."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pytest

from core.errors import EditorWorkflow
from tests.editor.writer import CATALOGUE, Json, Sheet, Writer
from workflows.editor.convert import convert

MADE = {"seed": 7, "text": "a cat", "kind": "b"}
MUTED, BYPASSED = 2, 4


def converted(writer: Writer, catalogue: Mapping[str, Any] = CATALOGUE) -> dict[str, Json]:
    """Class and inputs of each node, with the document read in both forms."""
    document = writer.document()
    before = copy.deepcopy(document)
    graph = convert(document, catalogue)
    assert document == before
    assert convert(writer.document(links_as_lists=False), catalogue) == graph
    return {node_id: {node["class_type"]: node["inputs"]} for node_id, node in graph.items()}


def saved(sheet: Sheet, origin: Json, slot: int = 0) -> Json:
    save = sheet.of_class("SaveImage", {"filename_prefix": "x"})
    sheet.link(origin, slot, save, "images")
    return save


def test_links_and_widgets_in_order() -> None:
    writer = Writer()
    make = writer.root.of_class("Make", MADE)
    saved(writer.root, make)

    assert converted(writer) == {
        "1": {"Make": {"seed": 7, "text": "a cat", "kind": "b"}},
        "2": {"SaveImage": {"images": ["1", 0], "filename_prefix": "x"}},
    }


def test_a_node_keeps_its_title() -> None:
    writer = Writer()
    saved(writer.root, writer.root.of_class("Make", MADE))
    writer.root.of_class("Make", MADE, title="Mine")

    titles = [node["_meta"]["title"] for node in convert(writer.document(), CATALOGUE).values()]

    assert sorted(titles) == ["Make a picture", "Mine", "SaveImage"]


def test_sources_come_before_what_they_lead_to() -> None:
    writer = Writer()
    save = writer.root.of_class("SaveImage", {"filename_prefix": "x"})
    make = writer.root.of_class("Make", MADE)
    writer.root.link(make, 0, save, "images")

    assert list(converted(writer)) == ["2", "1"]


def test_a_linked_widget_gets_the_link() -> None:
    writer = Writer()
    count, make = writer.root.of_class("Count", {"value": 3}), writer.root.of_class("Make", MADE)
    writer.root.link(count, 0, make, "seed")

    assert converted(writer)["2"] == {"Make": {"seed": ["1", 0], "text": "a cat", "kind": "b"}}


def test_widgets_without_stored_values_keep_their_first_ones() -> None:
    writer = Writer()
    writer.root.node("Make", values=[5, "fixed"])
    writer.root.node("SaveImage")

    assert converted(writer) == {
        "1": {"Make": {"seed": 5, "text": "", "kind": "a"}},
        "2": {"SaveImage": {"filename_prefix": "ComfyUI"}},
    }


def test_null_in_a_combo_is_its_first_option() -> None:
    writer = Writer()
    writer.root.of_class("Make", {**MADE, "kind": None})

    assert converted(writer)["1"]["Make"]["kind"] == "a"


def test_a_muted_node_is_left_out_with_the_links_to_it() -> None:
    writer = Writer()
    count = writer.root.of_class("Count", {"value": 3}, mode=MUTED)
    make = writer.root.of_class("Make", MADE)
    writer.root.link(count, 0, make, "seed")
    saved(writer.root, writer.root.of_class("Mix", {"share": 1.0, "on": True}, mode=MUTED))

    assert converted(writer) == {
        "2": {"Make": {"seed": 7, "text": "a cat", "kind": "b"}},
        "5": {"SaveImage": {"filename_prefix": "x"}},
    }


def test_a_bypassed_node_hands_on_the_input_that_fits() -> None:
    writer = Writer()
    make = writer.root.of_class("Make", MADE)
    mix = writer.root.of_class("Mix", {"share": 0.5, "on": False}, mode=BYPASSED)
    writer.root.link(make, 1, mix, "mask")
    writer.root.link(make, 0, mix, "other")
    saved(writer.root, mix)

    # By number it is `one`, which has no link.
    assert converted(writer)["5"] == {"SaveImage": {"filename_prefix": "x"}}

    writer.root.link(make, 0, mix, "one")
    assert converted(writer)["5"] == {"SaveImage": {"images": ["1", 0], "filename_prefix": "x"}}


def test_bypassed_nodes_in_a_row_and_one_without_a_fitting_input() -> None:
    writer = Writer()
    first = writer.root.of_class("Make", MADE, mode=BYPASSED)
    mix = writer.root.of_class("Mix", {"share": 0.5, "on": False}, mode=BYPASSED)
    writer.root.link(first, 0, mix, "one")
    saved(writer.root, mix)

    assert converted(writer) == {"4": {"SaveImage": {"filename_prefix": "x"}}}


def reroute(sheet: Sheet) -> Json:
    return sheet.node("Reroute", [{"name": "", "type": "*"}], ["*"])


def test_reroutes_lead_on() -> None:
    writer = Writer()
    make, one, two = writer.root.of_class("Make", MADE), reroute(writer.root), reroute(writer.root)
    writer.root.link(make, 0, one, "")
    writer.root.link(one, 0, two, "")
    saved(writer.root, two)
    saved(writer.root, reroute(writer.root))

    graph = converted(writer)
    assert graph["6"] == {"SaveImage": {"images": ["1", 0], "filename_prefix": "x"}}
    assert graph["9"] == {"SaveImage": {"filename_prefix": "x"}}


def test_primitives_give_their_value() -> None:
    writer = Writer()
    primitive = writer.root.node("PrimitiveNode", (), ["INT"], [99, "fixed"])
    one, two = writer.root.of_class("Make", MADE), writer.root.of_class("Count", {"value": 1})
    writer.root.link(primitive, 0, one, "seed")
    writer.root.link(primitive, 0, two, "value")

    graph = converted(writer)
    assert graph["2"]["Make"]["seed"] == 99
    assert graph["3"]["Count"] == {"value": 99}


def test_notes_and_groups_are_no_nodes() -> None:
    writer = Writer()
    writer.root.node("Note", values=["read me"])
    writer.root.node("MarkdownNote", values=["# read me"])
    writer.root.of_class("Count", {"value": 1})
    document = {**writer.document(), "groups": [{"title": "All", "bounding": [0, 0, 9, 9]}]}

    assert list(convert(document, CATALOGUE)) == ["3"]


def test_lists_are_told_from_links() -> None:
    catalogue = {"Pick": {"input": {"required": {"names": ["COMBO", {"multi_select": {}, "options": ["a", "b"]}]}}}}
    writer = Writer()
    writer.root.node("Pick", values=[["a", "b"]])

    assert converted(writer, catalogue) == {"1": {"Pick": {"names": {"__value__": ["a", "b"]}}}}


def test_a_curve_says_that_it_is_one() -> None:
    curve = {"points": [[0, 0], [1, 1]], "interpolation": "linear"}
    writer = Writer()
    writer.root.node("Bend", values=[curve])
    catalogue = {"Bend": {"input": {"required": {"curve": ["CURVE", {}]}}}}

    assert converted(writer, catalogue)["1"] == {"Bend": {"curve": {"__type__": "CURVE", "__value__": curve}}}


def test_dates_values_and_choices_are_filled_in() -> None:
    catalogue = {**CATALOGUE, "Say": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}]}}}}
    writer = Writer()
    writer.root.of_class("Make", MADE, title="Source")
    writer.root.of_class("SaveImage", {"filename_prefix": "%date:yyyy-MM-dd%/%Source.seed%_%width%"})
    writer.root.node("Say", values=["a {red|blue} cat"])

    now = datetime(2026, 3, 4, tzinfo=timezone.utc)
    graph = convert(writer.document(), catalogue, now=now, choose=lambda options: options[-1])

    assert graph["2"]["inputs"]["filename_prefix"] == "2026-03-04/7_%width%"
    assert graph["3"]["inputs"]["text"] == "a blue cat"


def test_a_loader_of_pictures_has_a_button_in_its_values() -> None:
    info: Json = {"input": {"required": {"image": [["a.png"], {"image_upload": True}], "size": ["INT", {}]}}}
    info["input_order"] = {"required": ["image", "size"]}
    writer = Writer()
    writer.root.node("LoadImage", values=["b.png", 8, "image"])

    assert converted(writer, {"LoadImage": info})["1"] == {"LoadImage": {"image": "b.png", "size": 8}}


def test_values_of_inputs_that_became_sockets_are_passed_over() -> None:
    info = {"input": {"required": {"text": ["STRING", {"forceInput": True}], "size": ["INT", {}]}}}
    writer = Writer()
    writer.root.node("Show", [{"name": "text", "type": "STRING"}], values=["of old", 8])
    writer.root.node("Show", [{"name": "text", "type": "STRING"}], values=[9])

    graph = converted(writer, {"Show": info})
    assert (graph["1"], graph["2"]) == ({"Show": {"size": 8}}, {"Show": {"size": 9}})


def test_values_by_name() -> None:
    writer = Writer()
    writer.root.node("Make", values={"text": "hi", "seed": 4, "crf": 19, "videopreview": {"hidden": False}})

    assert converted(writer)["1"] == {"Make": {"crf": 19, "seed": 4, "text": "hi", "kind": "a"}}


GROUP = {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image_", "min": 1, "max": 9}}
SWITCH: Json = {
    "input": {
        "required": {
            "model": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "small", "inputs": {"required": {"size": ["INT", {"default": 3}]}}},
                        {
                            "key": "large",
                            "inputs": {
                                "required": {
                                    "images": ["COMFY_AUTOGROW_V3", GROUP],
                                    "how": [
                                        "COMFY_DYNAMICCOMBO_V3",
                                        {"options": [{"key": "x", "inputs": {"optional": {"seed": ["INT", {}]}}}]},
                                    ],
                                }
                            },
                        },
                    ]
                },
            ],
            "after": ["STRING", {}],
        }
    },
    "output": ["IMAGE"],
}


def test_dynamic_combos_have_the_inputs_of_their_option() -> None:
    writer = Writer()
    writer.root.node("Switch", values=["small", 5, "end"])
    slots = [{"name": f"model.images.image_{number}", "type": "IMAGE"} for number in range(4)]
    large = writer.root.node("Switch", slots, values=["large", "x", 11, "end"])
    make = writer.root.of_class("Make", MADE)
    writer.root.link(make, 0, large, "model.images.image_0")
    writer.root.link(make, 0, large, "model.images.image_2")
    writer.root.node("Switch")

    graph = converted(writer, {**CATALOGUE, "Switch": SWITCH})
    assert graph["1"] == {"Switch": {"model": "small", "model.size": 5, "after": "end"}}
    assert graph["2"] == {
        "Switch": {
            "model": "large",
            "model.images.image_0": ["3", 0],
            "model.images.image_2": ["3", 0],
            "model.how": "x",
            "model.how.seed": 11,
            "after": "end",
        }
    }
    assert graph["6"] == {"Switch": {"model": "small", "model.size": 3, "after": ""}}


def test_links_of_an_option_that_is_not_chosen_are_dropped() -> None:
    writer = Writer()
    switch = writer.root.node("Switch", [{"name": "model.images.image_0", "type": "IMAGE"}], values=["small", 5, "end"])
    writer.root.link(writer.root.of_class("Make", MADE), 0, switch, "model.images.image_0")

    graph = converted(writer, {**CATALOGUE, "Switch": SWITCH})
    assert graph["1"] == {"Switch": {"model": "small", "model.size": 5, "after": "end"}}


def test_growing_groups_of_widgets_and_matching_types() -> None:
    template = {"input": {"required": {"float": ["FLOAT", {}]}}, "names": ["a", "b", "c"], "min": 1}
    matched = {"template": {"template_id": "t", "allowed_types": "IMAGE,MASK"}}
    info = {
        "input": {
            "required": {
                "last": ["STRING", {}],
                "floats": ["COMFY_AUTOGROW_V3", {"template": template}],
                "any": ["COMFY_MATCHTYPE_V3", matched],
            }
        },
        "output": ["COMFY_MATCHTYPE_V3"],
    }
    writer = Writer()
    node = writer.root.node("Grow", [{"name": "any", "type": "MASK"}], ["MASK"], [1.5, 2.5, "end"], mode=0)
    make = writer.root.of_class("Make", MADE)
    writer.root.link(make, 1, node, "any")
    mix = writer.root.of_class("Mix", {"share": 1.0, "on": True})
    writer.root.link(node, 0, mix, "mask")

    catalogue = {**CATALOGUE, "Grow": info}
    graph = converted(writer, catalogue)
    assert graph["1"] == {"Grow": {"floats.a": 1.5, "floats.b": 2.5, "last": "end", "any": ["2", 1]}}

    node["mode"] = BYPASSED
    assert converted(writer, catalogue)["4"]["Mix"]["mask"] == ["2", 1]


def test_the_options_of_a_custom_combo_are_its_own_values() -> None:
    catalogue = {"CustomCombo": {"input": {"required": {"choice": ["COMBO", {"options": []}]}}}}
    writer = Writer()
    writer.root.node("CustomCombo", values=["blue", 0, "red", "blue", ""])

    assert converted(writer, catalogue)["1"] == {
        "CustomCombo": {"choice": "blue", "index": 1, "option1": "red", "option2": "blue", "option3": ""}
    }


def refusal(writer: Writer, catalogue: Mapping[str, Any] = CATALOGUE) -> tuple[str, Json]:
    with pytest.raises(EditorWorkflow, match=r"Export \(API\)") as caught:
        convert(writer.document(), catalogue)
    return caught.value.message, caught.value.node_errors


def test_all_unknown_classes_are_named_and_none_is_left_out() -> None:
    writer = Writer()
    writer.root.node("SetNode", title="My value")
    inner = writer.subgraph("part")
    inner.node("GetNode")
    writer.root.node("part")
    writer.root.node("Missing", mode=MUTED)

    message, nodes = refusal(writer)
    assert list(nodes) == ["1", "3:2"]
    assert "Node 1 (SetNode): 'My value': no GPU of this fleet has such a node" in message
    assert nodes["3:2"]["errors"][0]["type"] == "node_not_convertible"
    assert nodes["3:2"]["class_type"] == "GetNode"


def test_a_pack_whose_editor_part_adds_widgets_is_refused() -> None:
    info = {"input": {"required": {}}, "python_module": "custom_nodes.pack"}
    writer = Writer()
    writer.root.node("Loras", values=[{"lora": "a"}, ""])

    message, _nodes = refusal(writer, {"Loras": info})
    assert "Node 1 (Loras): it is stored with 2 values, 0 of them for widgets" in message
    # One that only shows what it got stores that.
    assert convert(writer.document(), {"Loras": {**info, "output_node": True}})["1"]["inputs"] == {}


def test_what_is_rendered_in_the_browser_is_refused() -> None:
    info = {"input": {"required": {"model_file": [["a.glb"], {}], "image": ["LOAD_3D", {}]}}}
    writer = Writer()
    writer.root.node("Load3D", values=["a.glb"])

    assert "image: its pictures are rendered in the browser" in refusal(writer, {"Load3D": info})[0]


def test_groups_that_are_added_by_hand_are_refused() -> None:
    info = {"input": {"required": {"rows": ["COMFY_DYNAMICGROUP_V3", {"template": {}}]}}}
    writer = Writer()
    writer.root.node("Rows")

    assert "COMFY_DYNAMICGROUP_V3" in refusal(writer, {"Rows": info})[0]


def test_a_circle_of_reroutes_is_refused() -> None:
    writer = Writer()
    one, two = reroute(writer.root), reroute(writer.root)
    writer.root.link(one, 0, two, "")
    writer.root.link(two, 0, one, "")
    saved(writer.root, two)

    assert "is linked in a circle" in refusal(writer)[0]


def test_a_circle_of_nodes_is_left_to_the_check() -> None:
    writer = Writer()
    one = writer.root.of_class("Mix", {"share": 1.0, "on": True})
    writer.root.link(one, 0, one, "one")

    assert converted(writer)["1"]["Mix"]["one"] == ["1", 0]


def test_ids_of_subgraphs_do_not_meet_those_of_the_document() -> None:
    writer = Writer()
    writer.subgraph("part").of_class("Count", {"value": 1})
    writer.root.node("part")
    writer.root.of_class("Count", {"value": 2}, id="2:1")

    assert "another node has the id 2:1" in refusal(writer)[0]
