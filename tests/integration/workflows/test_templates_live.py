"""The shipped templates run with their defaults, and so do the modifiers, on the stand-in or a real ComfyUI."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from comfy.prompts.session import ComfySession
from tests.comfy_target import QUICK, bytes_of, new_id, real_comfyui_url
from tests.simulator_process import simulator
from workflows.graphs.checks import cacheable_catalogue, check_graph
from workflows.graphs.graph import Catalogue
from workflows.templates.fill import Filled
from workflows.templates.library import SHIPPED, Library
from workflows.templates.modifiers import build
from workflows.templates.proposal import propose
from workflows.templates.samples import sample
from workflows.templates.template import parse_template

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
    "text2video": (".webp", (832, 480)),
    "interior_design": (".png", (768, 576)),
}
FRAMES = {"text2video": 33}


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
    return item.filename, Image.open(io.BytesIO(bytes_of(session, item)))


def staged(session: ComfySession, filled: Filled) -> dict[str, Any]:
    """The graph, with the template's own files in the input folder and named as they are there."""
    names = {
        name: session.client.upload_image(path, name=name, subfolder="fleet-template", overwrite=True).reference
        for name, path in filled.files.items()
    }
    return {
        node_id: {**node, "inputs": {key: _renamed(value, names) for key, value in node["inputs"].items()}}
        for node_id, node in filled.graph.items()
    }


def _renamed(value: Any, names: dict[str, str]) -> Any:
    return names.get(value, value) if isinstance(value, str) else value


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

    graph = staged(session, filled)
    assert check_graph(graph, catalogue, staged_files=_files_in(graph)) == set(graph)
    file_name, picture = run(session, graph)
    suffix, size = ENDS[name]
    assert file_name.endswith(suffix)
    assert picture.size == size
    assert getattr(picture, "n_frames", 1) == FRAMES.get(name, 1)


def _files_in(graph: dict[str, Any]) -> list[str]:
    return [node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"]


def test_each_style_and_room_can_run(catalogue: Catalogue, photograph: str) -> None:
    template = LIBRARY.get("interior_design")
    texts = set()
    pictures: set[str] = set()
    for style in template.parameters["style"].choices:
        for room in template.parameters["room"].choices:
            values = {"user_img": photograph, "style": style.key, "room": room.key, "prefix": "ROOM"}
            filled = template.fill(values, draw=random.randint)
            check_graph(filled.graph, catalogue, staged_files=filled.files)
            texts.add((filled.graph["10"]["inputs"]["text"], filled.graph["11"]["inputs"]["text"]))
            pictures |= filled.files.keys()

    assert len(texts) == 3 * 8
    assert len({negative for _, negative in texts}) == 3
    assert pictures == {"style_eu1.png", "style_jp1.png", "style_country.png"} == template.files.keys()


@pytest.mark.parametrize("number", [0, 1, 2, "0", "1", "2"])
def test_a_style_may_be_a_number(number: int | str) -> None:
    template = LIBRARY.get("interior_design")
    filled = template.fill({"user_img": "a.png", "style": number, "room": "study"}, draw=random.randint)

    assert filled.values["style"] == ("style_eu1", "style_jp1", "style_country")[int(number)]
    assert list(filled.files) == [f"{filled.values['style']}.png"]


def test_the_picture_of_the_style_makes_a_difference(session: ComfySession, photograph: str) -> None:
    """The same texts and the same seed; only the style's picture is another."""
    values = {"user_img": photograph, "seed": 1, "steps": 2, "denoise": 1.0}
    filled = LIBRARY.get("interior_design").fill(values, draw=random.randint)
    graph = staged(session, filled)
    one = run(session, graph)[1].tobytes()
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = photograph

    assert run(session, graph)[1].tobytes() != one


def test_a_video_moves_and_has_the_length_of_its_frames(session: ComfySession) -> None:
    values = {"prompt": PROMPT, "width": 128, "height": 64, "length": 12, "fps": 10, "steps": 2}
    filled = LIBRARY.get("text2video").fill(values, draw=random.randint)
    _, video = run(session, filled.graph)
    frames = set()
    durations_ms = set()
    for index in range(video.n_frames):  # type: ignore[attr-defined]  # of animations only
        video.seek(index)
        frames.add(video.convert("RGB").tobytes())
        durations_ms.add(video.info["duration"])

    # Of 12 frames, 4n + 1 can be made.
    assert len(frames) == 9
    assert durations_ms == {100}


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
