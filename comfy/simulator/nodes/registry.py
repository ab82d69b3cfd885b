"""Puts all node classes together."""

from __future__ import annotations

from comfy.simulator.machine.node import NodeClass
from comfy.simulator.nodes import conditioning as nodes_conditioning
from comfy.simulator.nodes import files as nodes_files
from comfy.simulator.nodes import folders as nodes_folders
from comfy.simulator.nodes import latent as nodes_latent
from comfy.simulator.nodes import loaders as nodes_loaders
from comfy.simulator.nodes import media_files as nodes_media
from comfy.simulator.nodes import misbehaving as nodes_test
from comfy.simulator.nodes import odd as nodes_odd
from comfy.simulator.nodes import packs as nodes_packs
from comfy.simulator.nodes import pictures as nodes_image
from comfy.simulator.nodes import plain_values as nodes_values
from comfy.simulator.nodes import samplers as nodes_sampling
from comfy.simulator.nodes import simulated_work as nodes_work


def build_registry(*, test_nodes: bool) -> dict[str, NodeClass]:
    """Node classes by name; `test_nodes` adds those that fail, block, expand and so on."""
    groups = [nodes_image.NODES, nodes_files.NODES, nodes_media.NODES, nodes_work.NODES]
    groups += [
        nodes_loaders.NODES,
        nodes_conditioning.NODES,
        nodes_sampling.NODES,
        nodes_latent.NODES,
        nodes_values.NODES,
        nodes_folders.NODES,
    ]
    if test_nodes:
        groups += [nodes_test.NODES, nodes_odd.NODES, nodes_packs.NODES]
    return {node.name: node for group in groups for node in group}
