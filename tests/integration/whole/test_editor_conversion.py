"""Graphs of the official templates, as the official editor makes them in Chromium, and as we do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import Page, chromium
from tests.editor import stub_server, templates
from tests.services import missing
from workflows.editor.convert import convert

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

IS_LONG = os.environ.get("COMFYLINE_TEST_LONG") == "1"
#: Every so many of the templates are compared, all of them with COMFYLINE_TEST_LONG=1.
STEP = 1 if IS_LONG else 13
#: Of those that the editor can load; in a sample one of them.
DIFFERENT = 0.01

_IS_READY = "window.app?.rootGraph && window.app.canvas && window.LiteGraph?.registered_node_types['KSampler']"
#: Loads a document as from a file, lets what the editor does a moment later happen, and queues it in words alone.
_GRAPH_OF = """(async () => {
  const options = {skipAssetScans: true, silentAssetErrors: true, deferWarnings: true};
  await app.loadGraphData(DOCUMENT, true, false, null, options);
  await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
  return JSON.stringify((await app.graphToPrompt()).output);
})()"""

Graphs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def known() -> tuple[dict[str, Any], dict[str, Any]]:
    """The templates whose nodes are all known, and the `/object_info` of these."""
    if lacks := [*templates.lacking(), *stub_server.lacking()]:
        missing(f"{', '.join(lacks)} not installed: pip install --group dev")
    documents = templates.documents()
    info = templates.infer(list(documents.values()))
    return {
        name: document
        for name, document in documents.items()
        if all(node["type"] in info for node in templates.nodes(document))
    }, info


@pytest.fixture(scope="module")
def editor(known: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with (
        stub_server.StubServer(known[1]) as server,
        chromium(tmp_path_factory.mktemp("chromium") / "profile") as browser,
    ):
        page = browser.open(f"http://127.0.0.1:{server.port}/")
        page.await_true(_IS_READY, timeout_s=120)
        page.run("app.canvas.pause_rendering = true; app.canvas.draw = () => {}; 1")
        yield page
        page.close()


def _plain(graph: Graphs) -> Graphs:
    return {node_id: {"class_type": node["class_type"], **node["inputs"]} for node_id, node in graph.items()}


def test_all_templates_of_known_nodes_are_converted(known: tuple[dict[str, Any], dict[str, Any]]) -> None:
    documents, info = known
    refused = {}
    for name, document in documents.items():
        try:
            assert convert(document, info)
        except Exception as exc:  # noqa: BLE001 - whichever it is, it is told with the template
            refused[name] = str(exc)[:300]

    assert len(documents) > 500
    assert refused == {}


def test_our_graphs_are_those_of_the_editor(known: tuple[dict[str, Any], dict[str, Any]], editor: Page) -> None:
    documents, info = known
    names = list(documents)[::STEP]
    different: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            theirs = json.loads(editor.run(_GRAPH_OF.replace("DOCUMENT", json.dumps(documents[name]))))
        except AssertionError as exc:
            # The editor itself cannot load it.
            failed[name] = str(exc)[:200]
            continue
        ours, wanted = _plain(convert(documents[name], info)), _plain(theirs)
        if ours != wanted:
            nodes = [node_id for node_id in {**ours, **wanted} if ours.get(node_id) != wanted.get(node_id)]
            different[name] = {node_id: (ours.get(node_id), wanted.get(node_id)) for node_id in nodes[:3]}
    compared = len(names) - len(failed)
    print(
        f"{compared - len(different)} of {compared} graphs are equal, but for {list(different)}; "
        f"the editor could not load {list(failed)}"
    )

    assert len(failed) <= len(names) * 0.05, failed
    assert compared >= 30
    assert len(different) <= max(1, DIFFERENT * compared), json.dumps(different, indent=1)[:5000]
