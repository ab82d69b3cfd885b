"""The values that stand for models, texts and latents between the nodes that imitate them."""

from __future__ import annotations

import dataclasses

from comfy.simulator.machine.model_store import Weights
from comfy.simulator.machine.node import NodeCall
from comfy.simulator.media.drawing import Colour, Sketch
from comfy.simulator.media.images import Pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A diffusion model, a text encoder or a VAE: its weights, and what was put on top."""

    weights: tuple[Weights, ...]
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def caption(self) -> str:
        """The names for people, e.g. `flux1-dev + add_detail`."""
        names = [weights.name for weights in self.weights] + [name for name, _ in self.loras]
        return " + ".join(name.rsplit(".", 1)[0] for name in names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """An encoded text."""

    text: str
    #: Weights that must be in VRAM with the model: control nets.
    extra_weights: tuple[Weights, ...] = ()
    #: The colours of a style picture, if one was applied.
    palette: tuple[Colour, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent:
    """A latent: how large the picture will be, and what will be on it."""

    width_px: int
    height_px: int
    count: int
    #: How many pictures each of a batch decodes to if it is a video.
    frames: int = 1
    #: None until a sampler ran.
    sketch: Sketch | None = None
    #: The picture it was encoded from, if any.
    source: Pixels | None = None


def read_weights(call: NodeCall, folder: str, name: str) -> Weights:
    """Read one file, which takes its time."""
    return call.machine.gpu.read(
        Weights(folder=folder, name=name, size_bytes=call.machine.model_size_bytes(folder, name))
    )
