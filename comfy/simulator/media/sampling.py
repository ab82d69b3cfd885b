"""The timing model of a sampler: steps that take time, with progress, previews, interrupts and ordered faults."""

from __future__ import annotations

import dataclasses
import time

from PIL import Image

from comfy.simulator.machine.node import NodeCall
from comfy.simulator.machine.vram import OutOfVideoMemory
from comfy.simulator.media.drawing import Sketch, draw, noisy
from comfy.simulator.media.images import to_pillow
from comfy.simulator.media.stand_ins import Conditioning, Latent, Model

#: Previews show the latent, which is much smaller than the picture.
_PREVIEW_PX = 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """One sampling."""

    model: Model
    positive: Conditioning
    negative: Conditioning
    seed: int
    #: How many steps are really taken.
    steps: int
    denoise: float = 1.0


def sample(call: NodeCall, sampling: Sampling, latent: Latent) -> Latent:
    """Take the steps, and say in the latent what there is to see.

    Raises: Interrupted at a step, OutOfVideoMemory when that fault was ordered.
    """
    machine = call.machine
    weights = (*sampling.model.weights, *sampling.positive.extra_weights)
    stream_s = machine.gpu.use(*weights, passes=sampling.steps)
    if machine.faults.take("oom") is not None:
        raise OutOfVideoMemory("Allocation on device")
    sketch = Sketch(
        prompt=sampling.positive.text,
        negative=sampling.negative.text,
        seed=sampling.seed,
        model=sampling.model.caption,
        steps=sampling.steps,
        denoise=sampling.denoise,
        palette=sampling.positive.palette,
    )
    _take_steps(call, sketch, latent, machine.options.step_s + stream_s)
    return dataclasses.replace(latent, sketch=sketch)


def _take_steps(call: NodeCall, sketch: Sketch, latent: Latent, each_s: float) -> None:
    machine = call.machine
    preview = _preview(sketch, latent) if call.previews else None
    started_s = time.perf_counter()
    step_s = machine.gpu.scaled(each_s)
    for step in range(1, sketch.steps + 1):
        call.hang_if_ordered()
        _exit_if_ordered(call, step)
        # Against the start, so that what reporting costs does not make the sampler slower than it was told to be.
        time.sleep(max(0.0, started_s + step_s * step - time.perf_counter()))
        shown = noisy(preview, step / sketch.steps, sketch.seed + step) if preview else None
        call.step(step, sketch.steps, shown)


def picture(latent: Latent, index: int, frame: int = 0) -> Image.Image:
    """What one latent of a batch decodes to: the drawing, the source picture, or grey where nothing was sampled."""
    source = None
    if latent.source is not None:
        source = to_pillow(latent.source[index % len(latent.source)][None])[0]
    if latent.sketch is None:
        return source or Image.new("RGB", (latent.width_px, latent.height_px), "grey")
    return draw(latent.sketch, latent.width_px, latent.height_px, index, source, moment=frame / latent.frames)


def _preview(sketch: Sketch, latent: Latent) -> Image.Image:
    share = _PREVIEW_PX / max(latent.width_px, latent.height_px, _PREVIEW_PX)
    return draw(sketch, max(1, round(latent.width_px * share)), max(1, round(latent.height_px * share)))


def _exit_if_ordered(call: NodeCall, step: int) -> None:
    order = call.machine.faults.peek("exit")
    if order is not None and order["step"] == step:
        taken = call.machine.faults.take("exit")
        if taken is not None:
            call.machine.end_process(int(taken["code"]))
