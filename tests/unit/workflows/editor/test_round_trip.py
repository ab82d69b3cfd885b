"""Any graph, laid out as a document with detours, rests and subgraphs, gives the same graph again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.editor.writer import CATALOGUE, WIDGETS, Json, Sheet, Writer, inputs_of, port
from workflows.editor.convert import convert

BYPASSED = 4
Graph = dict[str, Json]
#: Where in a document a node's output is: on a sheet, a node and its slot there.
Ends = dict[str, tuple[Json, int]]

LITERALS: dict[str, st.SearchStrategy[Any]] = {
    "INT": st.integers(0, 2**64 - 1),
    "FLOAT": st.floats(allow_nan=False, allow_infinity=False),
    "STRING": st.text(max_size=20).filter(lambda text: "%" not in text),
    "BOOLEAN": st.booleans(),
    "COMBO": st.sampled_from(["a", "b"]),
}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph: Graph = {}
    given: dict[str, list[list[Any]]] = {}
    for number in range(draw(st.integers(1, 9))):
        class_type = draw(st.sampled_from(sorted(CATALOGUE)))
        inputs: Json = {}
        for name, type_ in inputs_of(class_type).items():
            links = given.get(type_, [])
            is_linked: bool = draw(st.booleans())
            if links and is_linked:
                inputs[name] = draw(st.sampled_from(links))
            elif type_ in WIDGETS:
                inputs[name] = draw(LITERALS[type_])
        node_id = str(number)
        graph[node_id] = {"class_type": class_type, "inputs": inputs}
        for slot, type_ in enumerate(CATALOGUE[class_type]["output"]):
            given.setdefault(type_, []).append([node_id, slot])
    return graph


class Layout:
    """Lays out a graph; what it draws decides on the detours."""

    def __init__(self, graph: Graph, draw: Callable[..., Any]) -> None:
        self.graph = graph
        self.draw = draw
        self.writer = Writer()
        #: The ids that the graph's nodes get.
        self.ids: dict[str, str] = {}
        self._within = {node_id: draw(st.booleans()) for node_id in graph}
        self._sheet = self.writer.subgraph("part") if any(self._within.values()) else self.writer.root
        self._host: Json = {}
        self._nodes: dict[str, Json] = {}

    def document(self) -> Json:
        root = self.writer.root
        for node_id, node in self.graph.items():
            literals = {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}
            self._nodes[node_id] = self._sheet_of(node_id).of_class(node["class_type"], literals)
        if self._sheet is not root:
            self._host = root.node("part")
        for node_id, node in self.graph.items():
            inner = f"{self._host['id']}:" if self._within[node_id] else ""
            self.ids[node_id] = f"{inner}{self._nodes[node_id]['id']}"
            for name, value in node["inputs"].items():
                if isinstance(value, list):
                    self._link(value, node_id, name)
                else:
                    self._perhaps_elsewhere(node_id, name, value)
        self._add_rests()
        return self.writer.document(links_as_lists=self.draw(st.booleans()))

    def _sheet_of(self, node_id: str) -> Sheet:
        return self._sheet if self._within[node_id] else self.writer.root

    def _link(self, value: list[Any], node_id: str, name: str) -> None:
        source_id, slot = value
        type_ = CATALOGUE[self.graph[source_id]["class_type"]]["output"][slot]
        node, sheet = self._nodes[node_id], self._sheet_of(node_id)
        origin = self._nodes[source_id]
        if self._within[source_id] == self._within[node_id]:
            self._detour(sheet, origin, slot, node, name, type_)
        elif self._within[node_id]:
            number = self._entry(type_)
            self._detour(self.writer.root, origin, slot, self._host, f"in{number}", type_)
            sheet.link(-10, number, node, name)
        else:
            number = len(self._sheet.outputs)
            self._sheet.outputs.append(port(f"out{number}", type_))
            self._host["outputs"].append({"name": f"out{number}", "type": type_, "links": []})
            self._sheet.link(origin, slot, -20, number)
            self._detour(sheet, self._host, number, node, name, type_)

    def _entry(self, type_: str) -> int:
        number = len(self._sheet.inputs)
        self._sheet.inputs.append(port(f"in{number}", type_))
        self._host["inputs"].append({"name": f"in{number}", "type": type_, "link": None})
        return number

    def _detour(self, sheet: Sheet, origin: Json, slot: int, target: Json, name: str, type_: str) -> None:
        """A link, over reroutes and bypassed nodes."""
        for _ in range(self.draw(st.integers(0, 2))):
            if type_ == "IMAGE" and self.draw(st.booleans()):
                between = sheet.of_class("Mix", {}, mode=BYPASSED)
                sheet.link(origin, slot, between, "one")
            else:
                between = sheet.node("Reroute", [{"name": "", "type": "*"}], [type_])
                sheet.link(origin, slot, between, "")
            origin, slot = between, 0
        sheet.link(origin, slot, target, name)

    def _perhaps_elsewhere(self, node_id: str, name: str, value: Any) -> None:
        """Have a value come from a primitive node, or from what the subgraph shows; what the node has is another."""
        sheet, node = self._sheet_of(node_id), self._nodes[node_id]
        type_ = inputs_of(node["type"])[name]
        how = self.draw(st.sampled_from(["stays", "stays", "primitive", "shown"]))
        if how == "primitive":
            primitive = sheet.node("PrimitiveNode", (), [type_], [value, "fixed"])
            sheet.link(primitive, 0, node, name)
        elif how == "shown" and self._within[node_id]:
            number = self._entry(type_)
            self._host["inputs"][number]["widget"] = {"name": f"in{number}"}
            sheet.link(-10, number, node, name)
            self._host.setdefault("shown", {})[number] = value
        else:
            return
        place = [each["name"] for each in node["inputs"] if "widget" in each].index(name)
        # A control stands behind the first widget of those that have one.
        controlled = node["type"] in ("Make", "Count")
        node["widgets_values"][place + (1 if controlled and place > 0 else 0)] = self.draw(LITERALS[type_])

    def _add_rests(self) -> None:
        root = self.writer.root
        root.node("Note", values=["a note"])
        root.of_class("SaveImage", {"filename_prefix": "muted"}, mode=2)
        shown = self._host.pop("shown", {})
        # The places of values are those of the inputs that lead to widgets, linked or not.
        values = []
        for number, entry in enumerate(self._sheet.inputs):
            targets = [
                each for each in self._sheet.links if each["origin_id"] == -10 and each["id"] in entry["linkIds"]
            ]
            nodes = {each["id"]: each for each in self._sheet.nodes}
            if any("widget" in nodes[each["target_id"]]["inputs"][each["target_slot"]] for each in targets):
                values.append(shown.get(number))
        if self._host:
            self._host["widgets_values"] = values


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_a_graph_laid_out_and_converted_is_the_same(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    layout = Layout(graph, data.draw)
    found = convert(layout.document(), CATALOGUE)

    wanted = {
        layout.ids[node_id]: {
            name: [layout.ids[value[0]], value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        for node_id, node in graph.items()
    }
    assert {node_id: node["inputs"] for node_id, node in found.items()} == wanted
    assert {node_id: node["class_type"] for node_id, node in found.items()} == {
        layout.ids[node_id]: node["class_type"] for node_id, node in graph.items()
    }
