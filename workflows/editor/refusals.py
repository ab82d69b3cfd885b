"""What cannot be converted: refused with the node and the reason, never left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.errors import EditorWorkflow
from workflows.graphs import node_errors as errors

#: Nodes named in one answer.
MAX_REPORTED = 100
_ADVICE = "In ComfyUI choose Workflow menu -> Export (API) and send that file"


def refused_node(node_id: str, class_type: str, title: str, reason: str) -> EditorWorkflow:
    """Return the refusal of a document for one of its nodes."""
    return refused_nodes({node_id: (class_type, title, reason)})


def refused_nodes(found: Mapping[str, tuple[str, str, str]]) -> EditorWorkflow:
    """Return the refusal of a document. Parameters: found - class, title and reason, by the id of the node."""
    entries = {
        errors.shown(node_id): errors.entry(errors.shown(class_type), [_error(node_id, class_type, title, reason)])
        for node_id, (class_type, title, reason) in list(found.items())[:MAX_REPORTED]
    }
    more = f" (of {len(found)} nodes)" if len(found) > MAX_REPORTED else ""
    return EditorWorkflow(
        f"This is the editor's save format, and it cannot be converted{more}. {errors.summary(entries)}. {_ADVICE}.",
        entries,
    )


def refused_document(reason: str) -> EditorWorkflow:
    """Return the refusal of a document for what is no single node's."""
    return EditorWorkflow(f"This is the editor's save format, and it cannot be converted: {reason}. {_ADVICE}.")


def _error(node_id: str, class_type: str, title: str, reason: str) -> dict[str, Any]:
    named = f"{errors.shown(title)!r}: " if title and title != class_type else ""
    return errors.error(
        "node_not_convertible",
        f"{named}{reason}",
        "",
        {"node_id": errors.shown(node_id), "class_type": errors.shown(class_type), "node_title": errors.shown(title)},
    )
