"""The shipped templates run with their defaults, and so do the modifiers, on the stand-in or a real ComfyUI."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from comfy.session import ComfySession
from tests.comfy_target import QUICK, new_id, real_comfyui_url
from tests.simulator_process import simulator
from workflows.checks import cacheable_catalogue, check_graph
from workflows.graph import Catalogue
from workflows.library import SHIPPED, Library
from workflows.modifiers import build
from workflows.proposal import propose
from workflows.samples import sample
from workflows.template import parse_template

LIBRARY = Library([SHIPPED])
#: What the templates have no default for.
PROMPT = "a red chair"
#: The kind of the file each template ends in, and the pixels of what it makes of a picture of 64 x 48.
ENDS = {
    "sd3": (".png", (1024, 1024)),
    "flux": (".png", (1024, 1024)),
    "text2image": (".png", (512, 512)),
    "image2image": (".png", (64, 48)),
    "upscale": (".png", (256, 192)),
    "text2video": (".webp", (512, 512)),
    "interior_design": (".png", (768, 576)),
}
FRAMES = {"text2video": 16}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfySession]:
    real = real_comfyui_url()
    if real:
        with ComfySession(real) as session:
            yield session
        return
    root = tmp_path_factory.mktemp("simulator")
    with simulator(root, "--simulate-speed", "0") as server, ComfySession(server.base_url, pace=QUICK) as session:
        yield session


@pytest.fixture(scope="module")
def photograph(session: ComfySession) -> str:
    """The name of a small picture in the input folder."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (180, 120, 60)).save(buffer, "PNG")
    return session.client.upload_image(buffer.getvalue(), name="fleet-template.png", overwrite=True).reference


@pytest.fixture(scope="module")
def catalogue(session: ComfySession, photograph: str) -> Catalogue:
    return cacheable_catalogue(session.client.object_info())


def run(session: ComfySession, graph: dict[str, Any]) -> tuple[str, Image.Image]:
    """The name and the picture of the only file a graph makes."""
    result = session.submit(graph, prompt_id=new_id()).wait(timeout_s=60)
    (item,) = [item for item in result.outputs if item.filename]
    assert item.filename is not None
    return item.filename, Image.open(io.BytesIO(b"".join(session.client.view(item))))


def needed(name: str, photograph: str) -> dict[str, Any]:
    """Values for the parameters without a default, and nothing else."""
    given: dict[str, Any] = {"string": PROMPT, "image": photograph}
    parameters = LIBRARY.get(name).parameters
    return {key: given[parameter.type] for key, parameter in parameters.items() if parameter.required}


def test_all_that_is_shipped_is_tested() -> None:
    assert LIBRARY.problems() == []
    assert LIBRARY.names() == sorted(ENDS)


@pytest.mark.parametrize("name", ENDS)
def test_a_shipped_template_runs_with_its_defaults(
    session: ComfySession, catalogue: Catalogue, photograph: str, name: str
) -> None:
    filled = LIBRARY.get(name).fill(needed(name, photograph), draw=random.randint)

    assert check_graph(filled.graph, catalogue) == set(filled.graph)
    file_name, picture = run(session, filled.graph)
    suffix, size = ENDS[name]
    assert file_name.endswith(suffix)
    assert picture.size == size
    assert getattr(picture, "n_frames", 1) == FRAMES.get(name, 1)


def test_each_style_and_room_can_run(catalogue: Catalogue, photograph: str) -> None:
    template = LIBRARY.get("interior_design")
    texts = set()
    for style in template.parameters["style"].choices:
        for room in template.parameters["room"].choices:
            values = {"user_img": photograph, "style": style.key, "room": room.key, "prefix": "ROOM"}
            graph = template.fill(values, draw=random.randint).graph
            check_graph(graph, catalogue)
            texts.add((graph["8"]["inputs"]["text"], graph["9"]["inputs"]["text"]))

    assert len(texts) == 3 * 8
    assert len({negative for _, negative in texts}) == 3


def test_modifiers_run(session: ComfySession, catalogue: Catalogue, photograph: str) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        ("Text2Image", {"prompt": PROMPT, "width": 64, "height": 64, "steps": 2}),
        ("Image2Image", {"prompt": PROMPT, "input_image": photograph, "steps": 2}),
        ("RawWorkflow", {"prompt": PROMPT, "width": 64, "height": 128, "steps": 2, "seed": 7}),
    ]
    sizes = []
    for modifier, modifications in requests:
        graph = build(modifier, modifications, LIBRARY, "flux").graph
        check_graph(graph, catalogue)
        sizes.append(run(session, graph)[1].size)

    assert sizes == [(64, 64), (64, 48), (64, 128)]


def test_a_proposed_sidecar_makes_a_template_that_runs(session: ComfySession, catalogue: Catalogue) -> None:
    graph = sample("demo")
    template = parse_template("demo", graph, propose(graph))
    filled = template.fill({"prompt": PROMPT, "width": 64, "height": 128, "steps": 2}, draw=random.randint)

    check_graph(filled.graph, catalogue)
    assert run(session, filled.graph)[1].size == (64, 128)
