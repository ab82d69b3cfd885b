"""Tells clients how far each node of the running prompt is."""

from __future__ import annotations

import io
import time
from typing import Any

from PIL import Image, ImageOps

from comfy.simulator.machine.hub import Hub, preview_frame
from comfy.simulator.machine.running_graph import Graph

#: ComfyUI scales previews down to this before it sends them.
_PREVIEW_MAX_PX = 512
#: Since 0.9.2 a report must be this far from the one before, unless it is the first, the last, or brings a preview.
_MIN_INTERVAL_S = 0.1
_MIN_SHARE = 0.005


class NodeProgress:
    """The progress of one prompt's nodes; every change goes out as a whole `progress_state`."""

    def __init__(self, hub: Hub, graph: Graph, prompt_id: str, *, throttled: bool) -> None:
        self._hub = hub
        self._graph = graph
        self._prompt_id = prompt_id
        self._throttled = throttled
        self._nodes: dict[str, dict[str, Any]] = {}
        self._last_sent: dict[str, tuple[float, float]] = {}

    def start(self, node_id: str) -> None:
        """A node begins."""
        self._nodes[node_id] = self._entry(node_id, 0.0, 1.0, "running")
        self._publish_state()

    def finish(self, node_id: str) -> None:
        """A node is done; one served from the cache was never begun."""
        old = self._nodes.get(node_id, {"max": 1})
        self._nodes[node_id] = self._entry(node_id, old["max"], old["max"], "finished")
        self._publish_state()

    def update(self, node_id: str, value: float, total: float, preview: Image.Image | None, format_name: str) -> None:
        """A node reports a step, perhaps with a picture; too many reports are dropped as ComfyUI drops them."""
        if self._throttled and preview is None and not self._is_due(node_id, value, total):
            return
        self._nodes[node_id] = self._entry(node_id, value, total, "running")
        self._publish_state()
        client_id = self._hub.client_id
        frame = self._frame(node_id, preview, format_name) if preview and self._hub.has_listener(client_id) else None
        with_metadata = self._hub.supports(client_id, "supports_preview_metadata")
        if frame and with_metadata:
            self._hub.publish_frame(frame, client_id)
        data = {"value": value, "max": total, "prompt_id": self._prompt_id, "node": node_id}
        self._hub.publish("progress", data, client_id)
        if frame and not with_metadata:
            self._hub.publish_frame(frame, client_id)

    def _entry(self, node_id: str, value: float, total: float, state: str) -> dict[str, Any]:
        return {
            "value": value,
            "max": total,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            "display_node_id": self._graph.display_id(node_id),
            "parent_node_id": self._graph.parent_id(node_id),
            "real_node_id": self._graph.real_id(node_id),
        }

    def _publish_state(self) -> None:
        # Entries are replaced, never changed, so a shallow copy is a safe snapshot for the sending thread.
        self._hub.publish(
            "progress_state", {"prompt_id": self._prompt_id, "nodes": dict(self._nodes)}, self._hub.client_id
        )

    def _is_due(self, node_id: str, value: float, total: float) -> bool:
        now_s = time.perf_counter()
        last = self._last_sent.get(node_id)
        if last is not None and value < total:
            last_s, last_value = last
            if now_s - last_s < _MIN_INTERVAL_S or (value - last_value) / max(total, 1) < _MIN_SHARE:
                return False
        self._last_sent[node_id] = (now_s, value)
        return True

    def _frame(self, node_id: str, preview: Image.Image, format_name: str) -> bytes:
        client_id = self._hub.client_id
        metadata = None
        if self._hub.supports(client_id, "supports_preview_metadata"):
            metadata = {
                "node_id": node_id,
                "prompt_id": self._prompt_id,
                "display_node_id": self._graph.display_id(node_id),
                "parent_node_id": self._graph.parent_id(node_id),
                "real_node_id": self._graph.real_id(node_id),
            }
        return preview_frame(_encode(preview, format_name), format_name, metadata)


def _encode(image: Image.Image, format_name: str) -> bytes:
    buffer = io.BytesIO()
    if format_name == "PNG":
        # Finished pictures travel as PNG (SaveImageWebsocket), so they keep their size.
        image.save(buffer, format="PNG", compress_level=1)
    else:
        ImageOps.contain(image.convert("RGB"), (_PREVIEW_MAX_PX, _PREVIEW_MAX_PX)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
