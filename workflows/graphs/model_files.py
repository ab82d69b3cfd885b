"""Which model files a graph loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from workflows.graphs.graph import Graph

#: File names that end so are models, whatever the input that names them is called.
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".gguf", ".onnx")


def models_of(graph: Graph) -> list[str]:
    """Names of the model files in the graph's literal inputs, each once, in the order of the alphabet."""
    return sorted({name for node in graph.values() for name in models_in(node["inputs"])})


def models_in(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Names of the model files in the literal inputs of one node."""
    for value in inputs.values():
        # Most texts have no dot at all.
        if isinstance(value, str) and "." in value and value.lower().endswith(SUFFIXES):
            yield value
