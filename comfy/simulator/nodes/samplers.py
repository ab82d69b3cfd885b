"""Stand-ins for samplers and what steers them."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy.simulator.machine.node import NodeCall, NodeClass, Spec
from comfy.simulator.media.sampling import Sampling, sample
from comfy.simulator.media.stand_ins import Conditioning, Latent, Model

_SAMPLERS = """
    euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 dpm_2 dpm_2_ancestral lms
    dpm_fast dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu dpmpp_2m
    dpmpp_2m_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu dpmpp_3m_sde
    dpmpp_3m_sde_gpu ddpm lcm ipndm ipndm_v deis res_multistep res_multistep_cfg_pp
    res_multistep_ancestral res_multistep_ancestral_cfg_pp gradient_estimation
    gradient_estimation_cfg_pp er_sde seeds_2 seeds_3 sa_solver sa_solver_pece ddim uni_pc uni_pc_bh2
"""
_SCHEDULERS = """
    simple sgm_uniform karras exponential ddim_uniform beta normal linear_quadratic kl_optimal
"""

_SEED: Spec = ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True})
_STEPS: Spec = ("INT", {"default": 20, "min": 1, "max": 10000})
_CFG: Spec = ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01})
_DENOISE: Spec = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
_SAMPLER: Spec = (_SAMPLERS.split(), {})
_SCHEDULER: Spec = (_SCHEDULERS.split(), {})
_MODEL: Spec = ("MODEL", {})
_LATENT: Spec = ("LATENT", {})
_CONDITIONING: Spec = ("CONDITIONING", {})
_NOTHING = Conditioning(text="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guider:
    """A model with the texts that steer it."""

    model: Model
    positive: Conditioning
    negative: Conditioning = _NOTHING


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The noise levels of a sampling; only how many matters here."""

    steps: int
    denoise: float = 1.0


def ksampler(
    call: NodeCall,
    model: Model,
    seed: int,
    steps: int,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float = 1.0,
    **_settings: Any,
) -> tuple[Latent]:
    sampling = Sampling(model=model, positive=positive, negative=negative, seed=seed, steps=steps, denoise=denoise)
    return (sample(call, sampling, latent_image),)


def ksampler_advanced(
    call: NodeCall,
    model: Model,
    noise_seed: int,
    steps: int,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    start_at_step: int,
    end_at_step: int,
    **_settings: Any,
) -> tuple[Latent]:
    taken = max(0, min(end_at_step, steps) - start_at_step)
    denoise = taken / steps
    sampling = Sampling(
        model=model, positive=positive, negative=negative, seed=noise_seed, steps=taken, denoise=denoise
    )
    return (sample(call, sampling, latent_image),)


def sample_custom(
    call: NodeCall,
    noise: int,
    guider: Guider,
    sigmas: Schedule,
    latent_image: Latent,
    **_sampler: str,
) -> tuple[Latent, Latent]:
    sampling = Sampling(
        model=guider.model,
        positive=guider.positive,
        negative=guider.negative,
        seed=noise,
        steps=sigmas.steps,
        denoise=sigmas.denoise,
    )
    latent = sample(call, sampling, latent_image)
    return latent, latent


def basic_guider(_call: NodeCall, model: Model, conditioning: Conditioning) -> tuple[Guider]:
    return (Guider(model=model, positive=conditioning),)


def cfg_guider(
    _call: NodeCall, model: Model, positive: Conditioning, negative: Conditioning, **_cfg: float
) -> tuple[Guider]:
    return (Guider(model=model, positive=positive, negative=negative),)


def basic_scheduler(_call: NodeCall, steps: int, denoise: float, **_settings: Any) -> tuple[Schedule]:
    return (Schedule(steps=steps, denoise=denoise),)


def select_sampler(_call: NodeCall, sampler_name: str) -> tuple[str]:
    return (sampler_name,)


def random_noise(_call: NodeCall, noise_seed: int) -> tuple[int]:
    return (noise_seed,)


_CUSTOM = "sampling/custom_sampling"
_CUSTOM_MODULE = "comfy_extras.nodes_custom_sampler"

NODES = (
    NodeClass(
        name="KSampler",
        run=ksampler,
        category="sampling",
        required={
            "model": _MODEL,
            "seed": _SEED,
            "steps": _STEPS,
            "cfg": _CFG,
            "sampler_name": _SAMPLER,
            "scheduler": _SCHEDULER,
            "positive": _CONDITIONING,
            "negative": _CONDITIONING,
            "latent_image": _LATENT,
            "denoise": _DENOISE,
        },
        outputs=("LATENT",),
    ),
    NodeClass(
        name="KSamplerAdvanced",
        run=ksampler_advanced,
        category="sampling",
        display_name="KSampler (Advanced)",
        required={
            "model": _MODEL,
            "add_noise": (["enable", "disable"], {}),
            "noise_seed": _SEED,
            "steps": _STEPS,
            "cfg": _CFG,
            "sampler_name": _SAMPLER,
            "scheduler": _SCHEDULER,
            "positive": _CONDITIONING,
            "negative": _CONDITIONING,
            "latent_image": _LATENT,
            "start_at_step": ("INT", {"default": 0, "min": 0, "max": 10000}),
            "end_at_step": ("INT", {"default": 10000, "min": 0, "max": 10000}),
            "return_with_leftover_noise": (["disable", "enable"], {}),
        },
        outputs=("LATENT",),
    ),
    NodeClass(
        name="SamplerCustomAdvanced",
        run=sample_custom,
        category=_CUSTOM,
        module=_CUSTOM_MODULE,
        required={
            "noise": ("NOISE", {}),
            "guider": ("GUIDER", {}),
            "sampler": ("SAMPLER", {}),
            "sigmas": ("SIGMAS", {}),
            "latent_image": _LATENT,
        },
        outputs=("LATENT", "LATENT"),
        output_names=("output", "denoised_output"),
    ),
    NodeClass(
        name="BasicGuider",
        run=basic_guider,
        category=f"{_CUSTOM}/guiders",
        module=_CUSTOM_MODULE,
        required={"model": _MODEL, "conditioning": _CONDITIONING},
        outputs=("GUIDER",),
    ),
    NodeClass(
        name="CFGGuider",
        run=cfg_guider,
        category=f"{_CUSTOM}/guiders",
        module=_CUSTOM_MODULE,
        required={"model": _MODEL, "positive": _CONDITIONING, "negative": _CONDITIONING, "cfg": _CFG},
        outputs=("GUIDER",),
    ),
    NodeClass(
        name="BasicScheduler",
        run=basic_scheduler,
        category=f"{_CUSTOM}/schedulers",
        module=_CUSTOM_MODULE,
        required={"model": _MODEL, "scheduler": _SCHEDULER, "steps": _STEPS, "denoise": _DENOISE},
        outputs=("SIGMAS",),
    ),
    NodeClass(
        name="KSamplerSelect",
        run=select_sampler,
        category=f"{_CUSTOM}/samplers",
        module=_CUSTOM_MODULE,
        required={"sampler_name": _SAMPLER},
        outputs=("SAMPLER",),
    ),
    NodeClass(
        name="RandomNoise",
        run=random_noise,
        category=f"{_CUSTOM}/noise",
        module=_CUSTOM_MODULE,
        required={"noise_seed": _SEED},
        outputs=("NOISE",),
    ),
)
