"""Puts all node classes together."""

from __future__ import annotations

from comfy.simulator import (
    nodes_conditioning,
    nodes_files,
    nodes_folders,
    nodes_image,
    nodes_latent,
    nodes_loaders,
    nodes_media,
    nodes_odd,
    nodes_packs,
    nodes_sampling,
    nodes_test,
    nodes_values,
    nodes_work,
)
from comfy.simulator.node import NodeClass


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
