"""The one thread that takes prompts from the queue and runs them, one at a time."""

from __future__ import annotations

import threading
import time

from comfy.simulator.execution.cache import NodeCache
from comfy.simulator.execution.executor import Run
from comfy.simulator.execution.prompt_queue import Item, PromptQueue
from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import NodeClasses


class Worker:
    """Runs prompts until the process ends; there is no way to stop it, as in ComfyUI."""

    def __init__(self, machine: Machine, classes: NodeClasses, prompts: PromptQueue) -> None:
        self._machine = machine
        self._classes = classes
        self._prompts = prompts
        options = machine.options
        self._cache = NodeCache(options.cache_mode, options.cache_entries, headroom_bytes=options.idle_headroom_bytes)
        self._thread = threading.Thread(target=self._run, name="prompt-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            taken = self._prompts.get()
            if taken is not None:
                if self._machine.faults.take("worker_dead") is not None:
                    self._machine.log("SIMULATED fault: the worker thread dies; nothing will run any more")
                    return
                self._run_prompt(*taken)
            self._apply_flags()

    def _run_prompt(self, item: Item, task: int) -> None:
        machine = self._machine
        exit_if_ordered(machine)
        started_s = time.perf_counter()
        prompt_id = item[1]
        finished = Run(machine, self._classes, self._cache, item).go()
        self._cache.end()
        if not machine.options.room.is_smart:
            machine.gpu.unload_all()
        late = machine.faults.take("late_history")
        if late is not None:
            time.sleep(float(late["seconds"]))
        self._prompts.finish(task, finished.history())
        if machine.faults.take("history_cleared") is not None:
            self._prompts.forget()
        client_id = machine.hub.client_id
        if client_id is not None and machine.faults.take("null_lost") is None:
            machine.hub.publish("executing", {"node": None, "prompt_id": prompt_id}, client_id)
        machine.log(f"Prompt executed in {time.perf_counter() - started_s:.2f} seconds")

    def _apply_flags(self) -> None:
        flags = self._prompts.take_flags()
        free_memory = flags.get("free_memory", False)
        if flags.get("unload_models", free_memory):
            self._machine.gpu.unload_all()
        if free_memory:
            self._cache.clear()


def exit_if_ordered(machine: Machine) -> None:
    """Commit the `exit` fault when it waits for a prompt (not for a moment or for a sampler's step)."""
    order = machine.faults.peek("exit")
    if order is not None and order["step"] is None and not order["after_s"]:
        taken = machine.faults.take("exit")
        if taken is not None:
            # The reply to the POST that queued this prompt may still be on its way.
            time.sleep(0.05)
            machine.end_process(int(taken["code"]))
