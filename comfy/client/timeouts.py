"""How long ComfyUI may take to answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often to ask, and how long to put up with what; all in seconds."""

    #: Between polls while events cannot be relied on: from the first to the second value.
    poll_first_s: float = 0.25
    poll_last_s: float = 1.0
    #: Between polls at the least, however often the queue changes.
    poll_least_s: float = 0.05
    #: Between polls while events come in: an end marker can be lost, a socket can fall silent.
    heartbeat_s: float = 3.0
    #: Between the two looks after which a prompt that is nowhere counts as lost.
    recheck_s: float = 0.15
    #: How long connections may be refused: a process that is gone does not come back with this prompt.
    refused_s: float = 1.0
    #: How long no connection may come about: a machine that is gone does not answer, not even with a refusal.
    unresponsive_s: float = 90.0
    #: How long the server may take connections and answer nothing: one call of a node can hold the interpreter's lock,
    #: and with it the event loop, for many minutes.
    mute_s: float = 1800.0
    #: How long the history entry of a prompt that has ended may be late.
    late_history_s: float = 5.0
    #: How long a running prompt gets to react to an interrupt before it counts as deaf.
    interrupt_grace_s: float = 30.0
    #: Limit for one poll's answer, and while the server is mute: each try is one more connection in its queue.
    answer_s: float = 5.0
    mute_answer_s: float = 20.0
