"""Which GPUs are found, with small scripts in place of `nvidia-smi`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from comfy.discovery import Gpu, discover_gpus


def program(directory: Path, script: str) -> str:
    path = directory / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_two_cards_are_read(tmp_path: Path) -> None:
    script = """
    [ "$*" = "--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits" ] || exit 1
    echo "0, GPU-11111111-2222-3333-4444-555555555555, NVIDIA GeForce RTX 4090, 24564"
    echo "1, GPU-66666666-7777-8888-9999-000000000000, Some Card, with a comma, 81920"
    """
    assert discover_gpus(program(tmp_path, script)) == [
        Gpu(
            index=0,
            uuid="GPU-11111111-2222-3333-4444-555555555555",
            name="NVIDIA GeForce RTX 4090",
            memory_bytes=24564 * 1024 * 1024,
        ),
        Gpu(
            index=1,
            uuid="GPU-66666666-7777-8888-9999-000000000000",
            name="Some Card, with a comma",
            memory_bytes=81920 * 1024 * 1024,
        ),
    ]


def test_a_card_that_shares_memory_has_no_size_of_its_own(tmp_path: Path) -> None:
    gpus = discover_gpus(program(tmp_path, 'echo "0, GPU-1, NVIDIA GB10, [N/A]"'))
    assert [(gpu.name, gpu.memory_bytes) for gpu in gpus] == [("NVIDIA GB10", 0)]


def test_no_program_means_no_gpu() -> None:
    assert discover_gpus("/nowhere/nvidia-smi") == []


def test_a_driver_that_fails_means_no_gpu_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert discover_gpus(program(tmp_path, 'echo "couldn\'t communicate with the driver"; exit 9')) == []
    assert "couldn't communicate with the driver" in caplog.text


def test_a_line_that_is_not_a_card_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        gpus = discover_gpus(program(tmp_path, 'echo "Unable to query GPU 0"; echo; echo "1, GPU-2, Card, 16"'))
    assert [gpu.index for gpu in gpus] == [1]
    assert "Unable to query" in caplog.text
