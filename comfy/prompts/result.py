"""What a prompt that ran whole leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.client.history import History
from comfy.client.outputs import ReportedOutput, outputs_of
from comfy.prompts.account import Account, Blocked


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """A prompt that ran whole."""

    prompt_id: str
    outputs: list[ReportedOutput]
    history: History
    #: Nodes served from ComfyUI's cache; empty for a run from scratch.
    cached_nodes: tuple[str, ...]
    #: Start and end of execution, ComfyUI's clock, milliseconds since the epoch; None if it did not say.
    started_at_ms: int | None
    finished_at_ms: int | None
    #: Branches that nodes blocked with a message; what came after them did not run.
    blocked: tuple[Blocked, ...] = ()
    #: Frames may have been lost, and with them pictures that a node sent instead of saving them.
    is_heard_in_part: bool = False


def result_of(history: History, *, account: Account) -> PromptResult:
    """Read the result from the history entry of a prompt that succeeded, and from what only the websocket told."""
    cached = (history.message("execution_cached") or {}).get("nodes")
    return PromptResult(
        prompt_id=history.prompt_id,
        outputs=outputs_of(history),
        history=history,
        cached_nodes=tuple(str(node) for node in cached) if isinstance(cached, list) else (),
        started_at_ms=history.timestamp_ms("execution_start"),
        finished_at_ms=history.timestamp_ms("execution_success"),
        blocked=tuple(account.blocked),
        is_heard_in_part=not account.is_whole,
    )
