"""Runs one prompt, node by node, and says so in ComfyUI's words and order."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from comfy.simulator.execution.cache import CacheEntry, NodeCache, Signatures
from comfy.simulator.execution.prompt_queue import Item
from comfy.simulator.execution.run_order import RunOrder
from comfy.simulator.execution.run_result import NODE_FAILURES, RunResult, describe_failure
from comfy.simulator.machine.machine import Interrupted, Machine
from comfy.simulator.machine.node import Blocker, NodeCall, NodeClass, NodeClasses, NodeResult
from comfy.simulator.machine.node_progress import NodeProgress
from comfy.simulator.machine.running_graph import Graph, as_link
from comfy.simulator.machine.vram import OutOfVideoMemory


class Run:
    """One run of one prompt."""

    def __init__(self, machine: Machine, classes: NodeClasses, cache: NodeCache, item: Item) -> None:
        _, self._prompt_id, prompt, self._extra_data, self._targets = item
        self._machine = machine
        self._hub = machine.hub
        self._classes = classes
        self._cache = cache
        self._graph = Graph(prompt)
        self._signatures = Signatures(self._graph, classes, self._fingerprint)
        release = machine.options.release
        self._progress = NodeProgress(self._hub, self._graph, self._prompt_id, throttled=release.throttled_progress)
        self._order = RunOrder(
            self._graph,
            classes,
            lambda node_id: self._entry(node_id) is not None,
            hides_unasked=release.hides_unasked_inputs,
        )
        #: Results of this run, by node id; the cache is asked for what is not here.
        self._entries: dict[str, CacheEntry] = {}
        #: Nodes that gave a graph in their place -> their values, which may be links into it.
        self._expanded: dict[str, NodeResult] = {}
        self._background: queue.SimpleQueue[tuple[str, NodeResult | BaseException]] = queue.SimpleQueue()
        self._background_done: dict[str, NodeResult | BaseException] = {}
        self._background_count = 0
        self._executed: set[str] = set()
        self._finished = RunResult()

    def go(self) -> RunResult:
        """Run to the end. The caller writes the history and sends the end marker."""
        self._machine.interrupt.clear()
        client_id = self._extra_data.get("client_id")
        self._hub.client_id = client_id
        self._message("execution_start", {"prompt_id": self._prompt_id})
        signatures = {node_id: self._signatures.of(node_id) for node_id in self._graph.original}
        self._cache.begin(set(signatures.values()))
        cached = [node_id for node_id, key in signatures.items() if self._cache.get(key) is not None]
        self._message("execution_cached", {"nodes": cached, "prompt_id": self._prompt_id})
        for node_id in self._targets:
            self._order.add(node_id)
        if self._run_nodes():
            self._message("execution_success", {"prompt_id": self._prompt_id})
        self._hub.last_node_id = None
        self._entries.clear()  # They hold weights, and this object lives until the garbage collector comes.
        return self._finished

    def _run_nodes(self) -> bool:
        while self._order:
            node_id = self._order.next()
            if node_id is None:
                self._await_background()
                continue
            try:
                self._visit(node_id)
                self._cache.relieve(self._machine.gpu.ram_available_bytes)
            except Interrupted:
                self._fail(node_id, None)
                return False
            except NODE_FAILURES as exc:
                self._fail(node_id, exc)
                return False
        return True

    def _visit(self, node_id: str) -> None:
        """Bring one node a step forward: from the cache, by running it, or by picking up what it waited for."""
        entry = self._entry(node_id)
        if entry is not None:
            self._show_cached(node_id, entry)
            self._progress.finish(node_id)
            self._order.done(node_id)
        elif node_id in self._expanded:
            self._complete(node_id, self._resolve(self._expanded.pop(node_id)))
        elif node_id in self._background_done:
            self._take_result(node_id, _result_or_raise(self._background_done.pop(node_id)))
        else:
            self._start(node_id)

    def _start(self, node_id: str) -> None:
        node = self._classes[self._graph.class_type(node_id)]
        self._progress.start(node_id)
        inputs = self._gather(node_id, node)
        if self._hub.client_id is not None:
            display_id = self._graph.display_id(node_id)
            self._hub.last_node_id = display_id
            data = {"node": node_id, "display_node": display_id, "prompt_id": self._prompt_id}
            self._hub.publish("executing", data, self._hub.client_id)
        self._machine.interrupt.check()
        blocker = next((value for value in inputs.values() if isinstance(value, Blocker)), None)
        if blocker is not None:
            self._complete(node_id, self._blocked(node_id, node, blocker))
        elif self._asks_for_more(node_id, node, inputs):
            pass  # It starts over, and says so again, when what it asked for is there.
        elif node.background:
            self._start_background(node_id, node, inputs)
        else:
            self._take_result(node_id, _as_result(node.run(self._call(node_id), **inputs)))

    def _take_result(self, node_id: str, result: NodeResult) -> None:
        if result.expand is None:
            self._complete(node_id, result)
            return
        prefix = f"{node_id}.0.0."
        links = _prefix_links(result.values, prefix)
        for inner_id, inner in result.expand.items():
            inputs = {
                name: [prefix + value[0], value[1]] if as_link(value) else value
                for name, value in inner["inputs"].items()
            }
            self._graph.add(prefix + inner_id, {"class_type": inner["class_type"], "inputs": inputs}, node_id)
        self._expanded[node_id] = dataclasses.replace(result, values=links)
        needed = [link[0] for value in links if (link := as_link(value))]
        for inner_id, inner in result.expand.items():
            if prefix + inner_id in needed or self._classes[inner["class_type"]].output_node:
                self._order.add(prefix + inner_id)
        self._order.wait_for(node_id, needed)

    def _complete(self, node_id: str, result: NodeResult) -> None:
        entry = CacheEntry(values=result.values, ui=self._spoil(result.ui))
        self._entries[node_id] = entry
        if entry.ui:
            self._show(node_id, entry.ui)
        if not self._graph.is_added(node_id):
            self._cache.put(self._signatures.of(node_id), entry)
        self._progress.finish(node_id)
        self._executed.add(node_id)
        self._order.done(node_id)

    def _show(self, node_id: str, ui: Mapping[str, Any] | None) -> None:
        display_id = self._graph.display_id(node_id)
        if ui:
            self._finished.outputs[node_id] = ui
            self._finished.meta[node_id] = {
                "node_id": node_id,
                "display_node": display_id,
                "parent_node": self._graph.parent_id(node_id),
                "real_node_id": self._graph.real_id(node_id),
            }
        if self._hub.client_id is not None:
            data = {"node": node_id, "display_node": display_id, "output": ui, "prompt_id": self._prompt_id}
            self._hub.publish("executed", data, self._hub.client_id)

    def _show_cached(self, node_id: str, entry: CacheEntry) -> None:
        if self._hub.client_id is not None or not self._machine.options.release.cached_outputs_need_client:
            self._show(node_id, entry.ui)

    def _spoil(self, ui: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        if ui and self._machine.faults.take("non_json_ui") is not None:
            return {**ui, "simulated_fault": {b"not", b"JSON"}}
        return ui

    def _gather(self, node_id: str, node: NodeClass) -> dict[str, Any]:
        required, optional = node.declared(self._graph.inputs(node_id))
        missing = self._order.missing(node_id)
        gathered: dict[str, Any] = {}
        for name, value in self._graph.inputs(node_id).items():
            link = as_link(value)
            if link is not None:
                gathered[name] = None if name in missing else self._value(*link)
            elif name in required or name in optional or node.accepts_all_inputs:
                gathered[name] = value
        return gathered

    def _asks_for_more(self, node_id: str, node: NodeClass, inputs: Mapping[str, Any]) -> bool:
        missing = self._order.missing(node_id)
        needed = [name for name in node.lazy_needs(inputs) if name in missing] if node.lazy_needs else []
        for name in needed:
            self._order.ask_for(node_id, missing[name])
        return bool(needed)

    def _value(self, node_id: str, slot: int) -> Any:
        entry = self._entry(node_id)
        assert entry is not None, f"node {node_id} has not run"
        values = entry.values
        is_beyond = slot >= len(values) and self._classes[self._graph.class_type(node_id)].answers_any_slot
        return values[-1] if is_beyond else values[slot]

    def _entry(self, node_id: str) -> CacheEntry | None:
        entry = self._entries.get(node_id)
        if entry is None and not self._graph.is_added(node_id):
            return self._cache.get(self._signatures.of(node_id))
        return entry

    def _resolve(self, result: NodeResult) -> NodeResult:
        values = tuple(self._value(*link) if (link := as_link(value)) else value for value in result.values)
        return NodeResult(values=values, ui=result.ui)

    def _blocked(self, node_id: str, node: NodeClass, blocker: Blocker) -> NodeResult:
        if blocker.message is not None:
            # Reported, but not the end: no timestamp, not in history, and the prompt goes on.
            data = {
                "prompt_id": self._prompt_id,
                "node_id": node_id,
                "node_type": node.name,
                "executed": list(self._executed),
                "exception_message": f"Execution Blocked: {blocker.message}",
                "exception_type": "ExecutionBlocked",
                "traceback": [],
                "current_inputs": [],
                "current_outputs": [],
            }
            self._hub.publish("execution_error", data, self._hub.client_id)
        return NodeResult(values=(Blocker(message=None),) * len(node.outputs))

    def _start_background(self, node_id: str, node: NodeClass, inputs: dict[str, Any]) -> None:
        call = self._call(node_id)

        def work() -> None:
            try:
                outcome: NodeResult | BaseException = _as_result(node.run(call, **inputs))
            except NODE_FAILURES as exc:
                outcome = exc
            self._background.put((node_id, outcome))

        self._order.pause(node_id)
        self._background_count += 1
        threading.Thread(target=work, name=f"node-{node_id}", daemon=True).start()

    def _await_background(self) -> None:
        if not self._background_count:
            raise RuntimeError("Dependency cycle detected")
        node_id, outcome = self._background.get()
        self._background_count -= 1
        self._background_done[node_id] = outcome
        self._order.resume(node_id)

    def _call(self, node_id: str) -> NodeCall:
        return NodeCall(
            machine=self._machine,
            node_id=node_id,
            prompt_id=self._prompt_id,
            prompt=self._graph.original,
            extra_data=self._extra_data,
            progress=self._progress,
        )

    def _fingerprint(self, node_id: str) -> str | None:
        fingerprint = self._classes[self._graph.class_type(node_id)].fingerprint
        return fingerprint(self._machine, self._graph.inputs(node_id)) if fingerprint else None

    def _fail(self, node_id: str, exc: BaseException | None) -> None:
        """End the run on a node's exception, or on an interrupt (None)."""
        self._finished.success = False
        real_id = self._graph.real_id(node_id)
        where = {
            "prompt_id": self._prompt_id,
            "node_id": real_id,
            "node_type": self._graph.class_type(real_id),
            "executed": list(self._executed),
        }
        if exc is None:
            self._message("execution_interrupted", where, broadcast=True)
            return
        if isinstance(exc, OutOfVideoMemory):
            self._machine.gpu.unload_all()
        inputs = self._gather(node_id, self._classes[self._graph.class_type(node_id)])
        self._machine.log(f"!!! Exception during processing !!! {exc}")
        self._message("execution_error", {**where, **describe_failure(exc, inputs, self._graph.all_ids())})

    def _message(self, event: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        stamped = {**data, "timestamp": int(time.time() * 1000)}
        self._finished.messages.append((event, stamped))
        if self._hub.client_id is not None or broadcast:
            self._hub.publish(event, stamped, self._hub.client_id)


def _as_result(returned: tuple[Any, ...] | NodeResult) -> NodeResult:
    return returned if isinstance(returned, NodeResult) else NodeResult(values=returned)


def _result_or_raise(outcome: NodeResult | BaseException) -> NodeResult:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _prefix_links(values: tuple[Any, ...], prefix: str) -> tuple[Any, ...]:
    return tuple([prefix + value[0], value[1]] if as_link(value) else value for value in values)
